"""``import handout`` on a host imports a stub, because the package itself is absent there."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

import handout
from handout.host import handout_stub
from handout.host.handout_stub import Current, File, current, publish
from handout.host.task_context import end
from handout.serialization import exceptions, pickling
from tests.pythons import MINORS, bundle, require_python, run_on_host

__all__ = ["bundle"]


@pytest.mark.parametrize("minor", MINORS)
def test_a_users_module_can_be_imported_with_all_that_it_imports_from_handout(bundle: Path, minor: int) -> None:
    source = """
import handout
from handout import Allocator, Cost, Graph, Host, Inventory, Output, current, later, options
from handout.errors import TaskError
from handout.graph.graph import Graph as Inner

class GpuCost(Cost):
    gpu_kind: str = "a100"

@handout.options(cost=GpuCost(gpu_kind="h100"), retries=2)
def double(x: "Output[int]") -> "Output[int]":
    return x * 2

hosts = Inventory([Host("a"), Host("b")], shared={"licence": 5})
alias = Output[int]
print(double(4), later(3), issubclass(TaskError, Exception), Inner is Graph, Graph.__module__)
"""
    assert run_on_host(require_python(minor), source, bundle=bundle) == b"8 3 True True handout\n"


def test_a_star_import_finds_all_public_names(bundle: Path) -> None:
    source = (
        "from handout import *\n@options(retries=1)\ndef f(): pass\nprint(Graph.__name__, TaskError.__name__, File)"
    )
    assert run_on_host(sys.executable, source, bundle=bundle).startswith(b"Graph TaskError <class ")
    assert sorted([*handout_stub.PRESENT, *handout_stub.ABSENT]) == sorted(handout.__all__)


@pytest.mark.parametrize(
    ("use", "name", "remedy"),
    [
        ("handout.Graph().add(len, [])", "handout.Graph().add", "__main__"),
        ("handout.Inventory.load('hosts.toml')", "handout.Inventory.load", "__main__"),
        ("import pickle; pickle.dumps([handout.Warm(len, 'x')])", "handout.Warm()", "__main__"),
        ("handout.run(None)", "handout.run()", "__main__"),
        ("handout.report(0.5)", "handout.report()", "write handout.current().report."),
    ],
)
def test_using_an_absent_name_raises_with_the_remedy(bundle: Path, use: str, name: str, remedy: str) -> None:
    source = f"import handout\ntry:\n    {use}\nexcept RuntimeError as error:\n    print(error)"
    told = run_on_host(sys.executable, source, bundle=bundle).decode()
    assert told.startswith(f"{name} is not available on a host")
    assert remedy in told


def test_the_error_of_an_absent_name_reaches_the_caller(bundle: Path) -> None:
    source = (
        "import handout\nfrom handout.serialization import exceptions\ntry:\n    handout.run(None)\n"
        "except RuntimeError as error:\n    sys.stdout.buffer.write(exceptions.dump_exception(error)[0])"
    )
    back = exceptions.load_exception(run_on_host(sys.executable, source, bundle=bundle))
    assert isinstance(back, RuntimeError)
    assert "not available on a host" in str(back)


def test_a_module_whose_name_begins_like_one_that_travels_has_a_stub(bundle: Path) -> None:
    source = "from handout.hosting import Thing\nprint(Thing.__name__)"
    assert run_on_host(sys.executable, source, bundle=bundle) == b"Thing\n"


def test_private_names_have_no_stub(bundle: Path) -> None:
    source = "import handout\nprint(hasattr(handout, '__path__'), hasattr(handout, '_x'), hasattr(handout.Cost(), '__len__'))"
    assert run_on_host(sys.executable, source, bundle=bundle) == b"True False False\n"


def test_handouts_error_raised_on_a_host_is_the_real_class_in_the_callers_process(bundle: Path) -> None:
    from handout import errors

    source = (
        "import handout\nfrom handout.serialization import exceptions\n"
        "sys.stdout.buffer.write(exceptions.dump_exception(handout.HandoutError('why'))[0])"
    )
    back = exceptions.load_exception(run_on_host(sys.executable, source, bundle=bundle))
    assert type(back) is errors.HandoutError
    assert str(back) == "why"


# ---- current ---------------------------------------------------------------------------------------------


def test_current_gives_the_running_task_and_makes_its_scratch_folder_at_the_first_access(tmp_path: Path) -> None:
    running = Current("train", "gpu1", 2, 0, str(tmp_path / "scratch"))
    publish(running)
    try:
        assert (current().id, current().host, current().attempt, current().variant) == ("train", "gpu1", 2, 0)
        assert not (tmp_path / "scratch").exists()
        Path(current().scratch, "x").write_text("x")
        end(running)
        assert not (tmp_path / "scratch").exists()
    finally:
        publish(None)
    assert current().id == "no task"


def test_current_travels_by_its_public_name() -> None:
    assert b"chandout\ncurrent" in pickle.dumps(current, 0)


# ---- files -----------------------------------------------------------------------------------------------


def test_a_file_travels_by_content_and_is_a_path_on_the_host(bundle: Path, tmp_path: Path) -> None:
    """The host's copy lies in the task's scratch folder. The copy that comes back lies in a folder of this process."""
    path = tmp_path / "data.txt"
    path.write_bytes(b"0123456789" * 10_000)
    path.chmod(0o755)
    source = f"""
import handout, os
from handout.serialization import pickling
handout.publish(handout.Current("t", "h", 1, 0, {str(tmp_path / "scratch")!r}))
file, empty = pickling.loads(sys.stdin.buffer.read())
assert file.path.startswith(handout.current().scratch), file.path
assert file.path != {str(path)!r} and os.path.basename(file.path) == "data.txt"
assert os.access(file, os.X_OK)
assert empty.read_bytes() == b""
with open(file, "a") as stream:
    stream.write("more")
sys.stdout.buffer.write(b"".join(pickling.dumps(handout.File(file))))
"""
    (tmp_path / "empty").touch()
    sent = b"".join(pickling.dumps([File(path), File(tmp_path / "empty")]))
    back = pickling.loads(run_on_host(sys.executable, source, stdin=sent, bundle=bundle))
    assert type(back) is File
    assert back.read_text() == "0123456789" * 10_000 + "more"
    assert path.stat().st_size == 100_000


def test_a_missing_file_is_an_error_when_it_is_sent() -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        pickling.dumps(File("/nowhere"))
