"""Which files travel with a package or a module, and which do not."""

from __future__ import annotations

import logging
import os
import re
import sys
import zipfile
from pathlib import Path

import pytest

from handout.project import listing, package
from handout.project.package import Package
from handout.slices import at_once
from tests.project.files import write

#: Names below a package, and whether they travel.
BELOW = {
    "table.json": True,
    "data/deep/er/x.bin": True,
    "data-v1/notes.txt": True,
    "no_suffix": True,
    "script.py": True,
    "fünf.txt": True,
    ".hidden": False,
    ".git/config": False,
    "__pycache__/mod.cpython-311.pyc": False,
    "old.pyc": False,
    "lib.so": False,
    "node_modules/left-pad/index.js": False,
    "env/pyvenv.cfg": False,
    "env/lib/x.txt": False,
    "cache/CACHEDIR.TAG": False,
    "cache/x.txt": False,
    "notes.txt~": False,
}


def package_in(folder: Path) -> Package:
    return at_once(Package.read("pkg", [str(folder / "pkg")]))


@pytest.fixture(autouse=True)
def warnings(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Let each test log each warning once. Return what captures them."""
    monkeypatch.setattr(listing, "_warned", set())
    caplog.set_level(logging.WARNING, "handout")
    return caplog


def test_files_of_a_package_travel_and_junk_does_not(tmp_path: Path) -> None:
    write(tmp_path / "pkg", "__init__.py", *BELOW)
    made = package_in(tmp_path)
    found = made.files.keys() | {module.inside for module in made.modules.values()}
    assert found == {"pkg/__init__.py", *(f"pkg/{name}" for name, travels in BELOW.items() if travels)}


def test_what_is_no_regular_file_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "pkg", "__init__.py", "data.txt")
    os.mkfifo(tmp_path / "pkg" / "pipe")
    (tmp_path / "pkg" / "gone").symlink_to("nowhere")
    (tmp_path / "pkg" / "loop").symlink_to(".")
    (tmp_path / "pkg" / "linked.txt").symlink_to("data.txt")
    assert package_in(tmp_path).files.keys() == {"pkg/data.txt", "pkg/linked.txt"}


def test_the_largest_files_are_left_out_until_the_others_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(package, "MAX_NBYTES", 1 << 20)
    write(tmp_path / "pkg", "__init__.py", a=b"x" * 700_000, b=b"x" * 600_000, c=b"x" * 300_000)
    assert package_in(tmp_path).files.keys() == {"pkg/b", "pkg/c"}
    assert warnings.messages == [
        "The files beside the modules of 'pkg' have 1.5 MiB. Handout sends at most 1.0 MiB of them to hosts, so these "
        "files are not sent: pkg/a (0.7 MiB). Pass large files to tasks as handout.File, or keep them outside the "
        "package."
    ]


@pytest.mark.parametrize("limit", ["MAX_FILES", "MAX_NAMES"])
def test_a_folder_of_data_is_not_read_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture, limit: str
) -> None:
    monkeypatch.setattr(listing, limit, 10)
    write(tmp_path / "pkg", "__init__.py", *(f"data/{number}" for number in range(20)))
    made = package_in(tmp_path)
    assert made.modules.keys() == {"pkg"}
    assert len(made.files) < 10
    assert len(warnings.messages) == 1
    assert "has more than 10 files" in warnings.messages[0]


def test_a_folder_that_cannot_be_read_is_left_out_and_named(tmp_path: Path, warnings: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "pkg", "tools.py", "pgdata/x", "data.txt")
    for path in (tmp_path / "pkg" / "pgdata", tmp_path / "pkg" / "data.txt"):
        path.chmod(0)
    if os.access(tmp_path / "pkg" / "pgdata", os.R_OK):
        pytest.skip("this user reads every folder, as the superuser does")
    made = package_in(tmp_path)
    assert made.modules.keys() == {"pkg.tools"}
    assert [package.read_listed(each) for each in made.files.values()] == [None]
    (tmp_path / "pkg" / "pgdata").chmod(0o700)
    assert len(warnings.messages) == 2
    assert all("cannot be read: Permission denied" in each for each in warnings.messages)


def test_what_cannot_be_followed_is_named_and_what_leads_nowhere_is_not(
    tmp_path: Path, warnings: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "pkg/__init__.py", "pkg/data.txt")
    (tmp_path / "pkg" / "loop.txt").symlink_to("loop.txt")
    (tmp_path / "pkg" / "nowhere.txt").symlink_to("absent.txt")
    assert package_in(tmp_path).files.keys() == {"pkg/data.txt"}
    (message,) = warnings.messages
    assert message.startswith(f"{tmp_path}/pkg/loop.txt is not sent to hosts, because it cannot be read: ")


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), FileNotFoundError(2, "No such file")])
def test_a_folder_of_a_module_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture, error: OSError
) -> None:
    """The module itself travels: a folder may allow to read the files in it, and not to list them."""
    write(tmp_path, **{"mod.py": b"PATH = __file__, 'data.txt'", "data.txt": b"x"})

    def refuse(folder: str) -> None:
        raise error

    monkeypatch.setattr(os, "scandir", refuse)
    made = at_once(Package.read("mod", [str(tmp_path / "mod.py")]))
    assert made.modules.keys() == {"mod"}
    assert made.files == {}
    said = f"No file beside the modules in {tmp_path} is sent to hosts, because the folder cannot be read: "
    assert warnings.messages == ([] if error.errno == 2 else [f"{said}Permission denied."])


@pytest.mark.parametrize(
    ("source", "travel"),
    [
        ("VALUE = 'small.json'", set()),
        ("import inspect, resources, other  # 'small.json'", set()),
        ("import pathlib\nPATH = pathlib.Path(__file__).parent", set()),
        ("PATH = __file__ + 'large.bin'", {"large.bin"}),
        ("PATH = __file__ + 'large' + '.bin'", set()),
        ("PATH = open(f'{__file__}/../large.bin')", {"large.bin"}),
        ("PATH = [__file__, 'data', 'pkg']", {"data/x.txt"}),
        ("PATH = Path(__file__).with_suffix('.txt')", {"mod.txt"}),
        ("PATH = list(Path(__file__).parent.glob('*.json'))", {"small.json"}),
        ("PATH = __file__, 'sm*.json', '*', '*.*', '.*', r'[a-z]*.txt', 'data/*.txt'", {"small.json", "data/x.txt"}),
        ("from importlib import resources\nPATH = resources.files(), 'small.json'", {"small.json"}),
        ("import inspect\nPATH = inspect.getfile(f), 'small.json'", {"small.json"}),
        ('PATH = __file__, "it\'s.txt"', {"it's.txt"}),
        ("PATH = __file__, 'it', 's.txt'", set()),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_beside_a_single_module_travels_what_it_names(
    tmp_path: Path, source: str, travel: set[str], zipped: bool
) -> None:
    """The folder may be the user's home folder, and hosts with ``trust="data"`` get the files too."""
    names = ["data/x.txt", "other.py", "small.json", "large.bin", "mod.txt", "mode.txt", "secrets.yaml", "it's.txt"]
    if zipped:
        with zipfile.ZipFile(tmp_path / "lib.zip", "w") as archive:
            archive.writestr("in/mod.py", source)
            for name in names:
                archive.writestr(f"in/{name}", "x")
    else:
        write(tmp_path / "in", *names, "pkg/__init__.py", **{"mod.py": source.encode()})
    folder = tmp_path / "lib.zip" / "in" if zipped else tmp_path / "in"
    assert at_once(Package.read("mod", [str(folder / "mod.py")])).files.keys() == travel


@pytest.mark.parametrize("count", [1, 300])
def test_the_source_is_searched_once_however_many_files_are_beside_it(tmp_path: Path, count: int) -> None:
    searches = 0

    def profile(frame: object, event: str, called: object) -> None:
        nonlocal searches
        name, owner = getattr(called, "__name__", ""), getattr(called, "__self__", None)
        searches += event == "c_call" and isinstance(owner, re.Pattern) and name in ("findall", "finditer", "search")

    write(tmp_path, *(f"{number}.json" for number in range(count)))
    source = b"PATH = __file__, '0.json', '*.txt'"
    found = listing.Listing()
    sys.setprofile(profile)
    try:
        at_once(listing.list_beside(found, str(tmp_path), source, "mod"))
    finally:
        sys.setprofile(None)
    assert found.files.keys() == {"0.json"}
    assert searches == 2, "one search for names, and one for patterns"


KEY = b"-----BEGIN PRIVATE KEY-----\n"
CERTIFICATE = b"-----BEGIN CERTIFICATE-----\n"
#: The beginning of a private key in the form DER: a sequence whose first number is the version 0.
DER = b"0\x82\x04\xa4\x02\x01\0"
FAR = b"# a comment\n" * 6_000

#: Files, and whether they travel.
KEYS = {
    "notes.txt": (KEY, False),
    "id_rsa": (b"-----BEGIN OPENSSH PRIVATE KEY-----", False),
    "deep/rsa.pem": (b"# for the test server\n\n-----BEGIN RSA PRIVATE KEY-----", False),
    "ec.txt": (b"-----BEGIN EC PARAMETERS-----\n-----BEGIN EC PRIVATE KEY-----", False),
    "encrypted.txt": (b"Bag Attributes\n-----BEGIN ENCRYPTED PRIVATE KEY-----", False),
    "pgp.asc": (b"-----BEGIN PGP PRIVATE KEY BLOCK-----", False),
    "ssh2": (b"---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----", False),
    "putty.ppk": (b"PuTTY-User-Key-File-3: ssh-ed25519", False),
    "account.json": (b'{"private_key": "-----BEGIN PRIVATE KEY-----\\nMII"}', False),
    "chain.PEM": (CERTIFICATE + FAR + KEY, False),
    "server.KEY": (DER, False),
    "id_ed25519": (DER, False),
    "trust.jks": (b"x", False),
    "pass.kdbx": (b"x", False),
    "wg0.key": (b"yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n", False),
    "fernet.key": (b"cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=", False),
    "master.key": (b"0123456789abcdef01234567\n", False),
    "secret.PEM": (b"\n django-insecure-a^b$c(d)e!f#g&h*i \n", False),
    "age.txt": (b"# public key: age1x\nAGE-SECRET-KEY-1XYZ", False),
    "table.key": (b"0123456789abcdef0123456\n", True),
    "words.key": (b"0123456789abcdef01234567 and more", True),
    "token.txt": (b"yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n", True),
    "about.md": (b"Marks are `PuTTY-User-Key-File-3` and `AGE-SECRET-KEY-`.", True),
    "far.txt": (FAR + KEY, True),
    "id_rsa.pub": (b"ssh-rsa AAAA", True),
    "id_ecdsa": (b"ssh-ed25519 AAAA", True),
    "public.pem": (b"-----BEGIN PUBLIC KEY-----", True),
    "ca.pem": (CERTIFICATE, True),
    "answers.key": ("1: größer\n".encode(), True),
    "table.bin": (DER, True),
}


def test_private_keys_never_travel_and_other_texts_do(tmp_path: Path, warnings: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "pkg", "__init__.py", **{name: data for name, (data, _) in KEYS.items()})
    listed = package_in(tmp_path).files.values()
    read = {each.inside: package.read_listed(each) for each in listed}
    assert read == {f"pkg/{name}": data if travels else None for name, (data, travels) in KEYS.items()}
    assert sorted(warnings.messages) == sorted(
        f"{tmp_path}/pkg/{name} is not sent to hosts, because it looks like a private key. "
        "If your tasks need it, pass it to them as an argument."
        for name, (_, travels) in KEYS.items()
        if not travels
    )


def test_above_a_package_travels_what_it_names_if_it_leads_there(tmp_path: Path) -> None:
    write(tmp_path, "config.toml", "other.toml", "data/x", "two/__init__.py")
    write(tmp_path / "pkg", **{"mod.py": b"X = open(Path(__file__).parent.parent / 'config.toml'), 'data', 'two'"})
    assert package_in(tmp_path).files.keys() == {"config.toml", "data/x"}
    write(tmp_path / "pkg", **{"mod.py": b"X = open(Path(__file__).parent / 'config.toml')"})
    assert package_in(tmp_path).files == {}


def test_a_zip_file_is_read_as_a_folder_is(tmp_path: Path) -> None:
    path = tmp_path / "lib.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("mod.py", "pkg/__init__.py", "pkg/sub/mod.py", "pkg/table.json", "pkg/.hidden", "pkgs/x.py"):
            archive.writestr(name, f"# {name}")
    made = at_once(Package.read("pkg", [f"{path}/pkg"]))
    assert {name: module.source for name, module in made.modules.items()} == {
        "pkg": b"# pkg/__init__.py",
        "pkg.sub.mod": b"# pkg/sub/mod.py",
    }
    assert made.files.keys() == {"pkg/table.json"}
    assert package.read_listed(made.files["pkg/table.json"]) == b"# pkg/table.json"
    single = at_once(Package.read("mod", [f"{path}/mod.py"]))
    assert single.modules["mod"].source == b"# mod.py"
    version = single.version
    single = at_once(single.refreshed())
    assert single.version == version


def test_each_run_compares_all_data_files_and_the_sources_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    now_s = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    write(tmp_path / "pkg", "__init__.py", *(f"{number}.txt" for number in range(600)))
    made = at_once(package_in(tmp_path).refreshed())
    write(tmp_path / "pkg", **{"__init__.py": b"VALUE = 1"})
    assert at_once(made.refreshed()) is made
    now_s += package.SOURCE_CHECK_S
    made = at_once(made.refreshed())
    assert "has changed since Handout first read it" in warnings.text
    version = made.version
    made = at_once(made.refreshed())
    assert made.version == version
    write(tmp_path / "pkg", **{"599.txt": b"longer"})
    assert at_once(made.refreshed()).version > version


def test_a_data_file_is_read_anew_when_it_has_changed_and_a_removed_package_is_kept(
    tmp_path: Path, warnings: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "pkg", "__init__.py", "a.txt")
    made = package_in(tmp_path)
    versions = [made.version]

    def refreshed() -> bool:
        nonlocal made
        made = at_once(made.refreshed())
        versions.append(made.version)
        return versions[-1] != versions[-2]

    assert not refreshed()
    write(tmp_path / "pkg", **{"a.txt": b"longer"})
    assert refreshed()
    old = (tmp_path / "pkg" / "a.txt").stat()
    write(tmp_path / "pkg", **{"a.txt": b"LONGER"})
    os.utime(tmp_path / "pkg" / "a.txt", ns=(old.st_atime_ns, old.st_mtime_ns))  # as `rsync --times` does
    assert refreshed()
    write(tmp_path / "pkg", "b.txt")
    assert refreshed()
    assert made.files.keys() == {"pkg/a.txt", "pkg/b.txt"}
    (tmp_path / "pkg" / "a.txt").unlink()
    assert refreshed()
    (tmp_path / "pkg").rename(tmp_path / "moved")
    assert not refreshed()
    assert made.modules.keys() == {"pkg"}
    assert len(warnings.messages) == 1
    assert "is gone" in warnings.messages[0]
