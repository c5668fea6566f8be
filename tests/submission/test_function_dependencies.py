"""Which functions of a script a call pickles anew, and after which changes."""

from __future__ import annotations

import gc
import importlib
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from handout.errors import UnserializableError
from handout.serialization import tokens
from handout.submission.function_dependencies import dependencies_of
from handout.submission.single_call import CallOptions, EncodedCall, encode_call

Space: TypeAlias = dict[str, Any]


def script(text: str) -> Space:
    """Run a text as a script. Return its globals."""
    space: Space = {"__name__": "__main__"}
    exec(compile(text, "script.py", "exec", dont_inherit=True), space)
    return space


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make a package ``deps`` with the modules ``deps.tools``, ``deps.late`` and ``deps.end``."""
    (tmp_path / "deps").mkdir()
    (tmp_path / "deps" / "__init__.py").write_text("")
    (tmp_path / "deps" / "tools.py").write_text(
        "class Kind:\n    pass\n\ndef tool():\n    return 1\n\ndef tool_of(x):\n    return x\n"
    )
    (tmp_path / "deps" / "late.py").write_text("VALUE = 1\n")
    (tmp_path / "deps" / "end.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "deps"]:
        del sys.modules[name]


class Called:
    """Encodes calls of ``work``."""

    def __init__(self, space: Space) -> None:
        self.space, self.options = space, CallOptions({})

    def __call__(self, *args: Any) -> EncodedCall:
        return encode_call(self.space["work"], args, {}, self.options)


def set_code(space: Space) -> None:
    space["work"].__code__ = script("def work(x=0): return x + 1")["work"].__code__


def set_helpers_code(space: Space) -> None:
    space["helper"].__code__ = script("def helper(): return 2")["helper"].__code__


def replace_tool(space: Space) -> None:
    sys.modules["deps.tools"].tool = lambda: 2  # type: ignore[attr-defined]


def replace_tool_of(space: Space) -> None:
    sys.modules["deps.tools"].tool_of = None  # type: ignore[attr-defined]


def replace_kind(space: Space) -> None:
    sys.modules["deps.tools"].Kind = type("Kind", (), {})  # type: ignore[attr-defined]


def replace_module(space: Space) -> None:
    sys.modules["deps.tools"] = types.ModuleType("deps.tools")


def lose_spec(space: Space) -> None:
    sys.modules["deps.tools"].__spec__ = None


def rename_module(space: Space) -> None:
    sys.modules["deps.tools"].__name__ = "deps.same"


def import_late(space: Space) -> None:
    importlib.import_module("deps.late")


def replace_package(space: Space) -> None:
    sys.modules["deps"] = types.ModuleType("deps")


def replace_alias(space: Space) -> None:
    sys.modules["deps.same"] = types.ModuleType("deps.same")


def import_late_and_forget_end(space: Space) -> None:
    del sys.modules["deps.end"]
    import_late(space)


def import_late_and_reload_end(space: Space) -> None:
    import_late(space)
    sys.modules["deps.end"] = sys.modules.pop("deps.end")


def make_importable(space: Space) -> None:
    sys.modules["deps.tools"].work = space["work"]  # type: ignore[attr-defined]


HELPER = "K = 1\ndef helper(): return K\ndef work(x=0): return x + helper()"
TOOL = "from deps.tools import tool, Kind\ndef work(x=0): return x + tool() + len(Kind.__name__)"
SAME = "import sys, deps.tools as t\nsys.modules['deps.same'] = t\ndef work(x=0): return t.tool()"
THROUGH = "import deps, deps.tools\ndef work(x=0): return deps.tools.tool()"
PACKAGE = "import deps, deps.tools\ndef work(x=0): return x + deps.late.VALUE"

CHANGES: dict[str, tuple[str, Callable[[Space], Any]]] = {
    "its code": ("def work(x=0): return x", set_code),
    "a default": ("def work(x=1): return x", lambda s: setattr(s["work"], "__defaults__", (2,))),
    "a default of a keyword": (
        "def work(x=1): return x",
        lambda s: setattr(s["work"], "__kwdefaults__", {"y": 2}),
    ),
    "a default of a keyword that has one": (
        "def work(x=1, *, y=1): return x",
        lambda s: s["work"].__kwdefaults__.update(y=2),
    ),
    "the first default of a keyword": (
        "def work(x=1, **more): return x\nwork.__kwdefaults__ = {}",
        lambda s: s["work"].__kwdefaults__.update(y=2),
    ),
    "its name": ("def work(x=1): return x", lambda s: setattr(s["work"], "__name__", "other")),
    "its qualified name": ("def work(x=1): return x", lambda s: setattr(s["work"], "__qualname__", "other")),
    "its module": ("def work(x=1): return x", lambda s: setattr(s["work"], "__module__", "other")),
    "its text": ("def work(x=1): 'one'", lambda s: setattr(s["work"], "__doc__", "two")),
    "an attribute": ("def work(x=1): return x", lambda s: setattr(s["work"], "attribute", 1)),
    "an annotation": ("def work(x: int = 1): return x", lambda s: s["work"].__annotations__.update(x=float)),
    "one annotation less": ("def work(x: int = 1): return x", lambda s: s["work"].__annotations__.clear()),
    "an annotation that is an alias": (
        "def work(x: list[int] = 1): return x",
        lambda s: s["work"].__annotations__.update(x=list[float]),
    ),
    "a class in an annotation": (
        "from deps.tools import Kind\ndef work(x: dict[str, Kind | None] = 1): return x",
        replace_kind,
    ),
    "a class in an alias": (
        "from deps.tools import Kind\nKinds = list[Kind]\ndef work(x=0): return Kinds",
        replace_kind,
    ),
    "a default that hosts import": ("from deps.tools import tool\ndef work(x=tool): return x", replace_tool),
    "a global of an annotation": ("T = 1\ndef work(x: 'T' = 1): return x", lambda s: s.update(T=2)),
    "a constant": ("K = 1\ndef work(x=0): return x + K", lambda s: s.update(K=2)),
    "a constant of another type": ("K = 1\ndef work(x=0): return x + K", lambda s: s.update(K=True)),
    "a constant in a tuple": ("K = (1, 2)\ndef work(x=0): return K", lambda s: s.update(K=(1, True))),
    "a class in a tuple": (
        "from deps.tools import Kind\nKinds = (int, Kind)\ndef work(x=0): return Kinds",
        replace_kind,
    ),
    "a constant that is now a list": ("K = 1\ndef work(x=0): return x + K", lambda s: s.update(K=[1])),
    "a constant that is gone": ("K = 1\ndef work(x=0): return x + K", lambda s: s.pop("K")),
    "a global in place of a built-in function": (
        "def work(x=0): return len(str(x))",
        lambda s: s.update(len=lambda text: 7),
    ),
    "a helper": (HELPER, lambda s: s.update(script("def helper(): return 2"))),
    "a helper that is gone": (HELPER, lambda s: s.pop("helper")),
    "a helper's code": (HELPER, set_helpers_code),
    "a helper's constant": (HELPER, lambda s: s.update(K=2)),
    "a function that hosts import": (TOOL, replace_tool),
    "a class that hosts import": (TOOL, replace_kind),
    "a module among the globals": ("import deps.tools as t\ndef work(x=0): return t.tool()", replace_module),
    "a module that the code imports": (
        "import deps.tools\ndef work(x=0):\n import deps.tools as t\n t.x",
        replace_module,
    ),
    "a module that hosts import no more": (THROUGH, lose_spec),
    "a module's name": (SAME, rename_module),
    "a module of a package": (PACKAGE, import_late),
    "a module of a package, and another one is gone": (PACKAGE, import_late_and_forget_end),
    "a module of a package, and another one is reloaded": (PACKAGE, import_late_and_reload_end),
    "the package of a module that the code imports": (
        "import deps.tools\ndef work(x=0): import deps.tools",
        replace_package,
    ),
    "a second name of a module that the code imports": (
        "import sys, deps.tools\nsys.modules['deps.same'] = deps.tools\ndef work(x=0): import deps.same",
        replace_alias,
    ),
    "its module, which has it now": (
        "import deps.tools\ndef work(x=0): return x\nwork.__module__ = 'deps.tools'",
        make_importable,
    ),
    "its module, which has it no more": ("from deps.tools import tool_of as work", replace_tool_of),
    "a type parameter": ("def work(x=0): return x", lambda s: setattr(s["work"], "__type_params__", (1,))),
    "the name of a default of a keyword": (
        "def work(x=0, **more): return x\nwork.__kwdefaults__ = {'y': 1}",
        lambda s: setattr(s["work"], "__kwdefaults__", {"z": 1}),
    ),
    "the name of the script": ("def work(x=0): return x", lambda s: s.update(__name__="other")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_function_is_sent_anew_after_a_change_of(change: str) -> None:
    text, deed = CHANGES[change]
    call = Called(script(text))
    importlib.import_module("deps.end")  # so that no other module is the last one of `sys.modules`
    dependencies = dependencies_of(call.space["work"])
    assert dependencies is not None
    first, second = call(1), call(2)
    assert second.bytes.function is first.bytes.function
    assert dependencies.are_unchanged()
    deed(call.space)
    assert not dependencies.are_unchanged()
    assert call(3).bytes.function.blob != first.bytes.function.blob


#: For each function, objects of a kind that can change without a trace.
UNKNOWN: dict[str, str] = {
    "a list": "K = [1]\ndef work(x=0): return K",
    "an object": "class A: pass\nK = A()\ndef work(x=0): return K",
    "a class of the script": "class A: pass\ndef work(x=0): return A",
    "a default that is a list": "def work(x=[]): return x",
    "a default of a keyword that is a list": "def work(*, x=[]): return x",
    "a text that is a list": "def work(x=0): return x\nwork.__doc__ = ['one']",
    "a name of a class of the script": ("class S(str): pass\ndef work(x=0): return x\nwork.__name__ = S('work')"),
    "annotations of a class of the script": (
        "class D(dict): pass\ndef work(x=0): return x\nwork.__annotations__ = D(x=int)"
    ),
    "defaults of keywords of a class of the script": (
        "class D(dict): pass\ndef work(*, x=0): return x\nwork.__kwdefaults__ = D(x=0)"
    ),
    "an annotation without a name": "class A: pass\ndef work(x=0): return x\nwork.__annotations__ = {A: int}",
    "an annotation with a class that seems built in": (
        "class A: __module__ = 'builtins'\ndef work(x: A = None): return x"
    ),
    "a tuple with a list": "K = (1, [2])\ndef work(x=0): return K",
    "an alias of a class of the script": "class A: pass\ndef work(x: list[A] = None): return x",
    "an object that replaces a module": "import sys, deps\nsys.modules['deps.odd'] = object()\ndef work(x=0): import deps.odd",
    "an attribute": "def work(x=0): return x\nwork.attribute = []",
    "a closure": "def make(k):\n def work(x=0): return k\n return work\nwork = make([1])",
    "a helper with a list": "K = [1]\ndef helper(): return K\ndef work(x=0): return helper()",
    "a module that the program made": (
        "import sys, types\nm = sys.modules['deps.made'] = types.ModuleType('deps.made')\ndef work(x=0): return m.x"
    ),
    "a module that the program made and the code imports": (
        "import sys, types\nsys.modules['deps.made'] = types.ModuleType('deps.made')\ndef work(x=0): import deps.made"
    ),
    "an annotation with a class of the script": "class A: pass\ndef work(x: A = None): return x",
    "a tuple with more than 64 items": "K = (1,) * 65\ndef work(x=0): return K",
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_a_function_is_pickled_for_each_call_if_it_uses(kind: str) -> None:
    assert dependencies_of(script(UNKNOWN[kind])["work"]) is None


class Globals(dict[str, Any]):
    """Globals of a class that looks names up in its own way."""


def test_a_function_is_pickled_for_each_call_if_its_globals_are_no_plain_dict() -> None:
    space = Globals(__name__="__main__")
    exec("def work(x=0): return x", space)
    assert dependencies_of(space["work"]) is None


#: Functions of kinds that many scripts have.
KNOWN: dict[str, str] = {
    "tuples": "K = (1, (2, 'a'))\ndef work(x=(0, len), *, y=()): return K",
    "aliases": "def work(x: list[int], y: tuple[float, ...] = (), z: str | None = None) -> dict[str, None]: ...",
    "classes": "from pathlib import Path\ndef work(x: Path) -> Path: return x",
    "abstract classes": (
        "from collections.abc import Sequence\nfrom typing import Any\ndef work(x: Sequence[Any]): return Sequence"
    ),
    "texts": "from typing import Any\nfrom pathlib import Path\ndef work(x: 'list[Any]') -> 'Path | None': ...",
    "enums": "from http import HTTPStatus\ndef work(x=0): return HTTPStatus(x)",
    "a long text": "K = 'x' * 5000\ndef work(x=0): return K",
    "many helpers": (
        "def f0(): pass\n" + "".join(f"def f{i}(): return f{i - 1}()\n" for i in range(1, 300)) + "work = f299"
    ),
    "defaults of keywords": "def work(x=0, *, y: float = 0.5, z=None): return x",
}


@pytest.mark.parametrize("kind", KNOWN)
def test_a_function_is_pickled_once_if_it_has(kind: str) -> None:
    dependencies = dependencies_of(script(KNOWN[kind])["work"])
    assert dependencies is not None
    assert dependencies.are_unchanged()


#: Functions with objects that raise an exception when anything looks at them.
HOSTILE: dict[str, str] = {
    "a class without a hash": (
        "class M(type):\n def __eq__(self, other): raise ValueError\nclass A(metaclass=M): pass\n"
        "K = A()\ndef work(x=0): return K"
    ),
    "a class that cannot be read": (
        "class A:\n @property\n def __class__(self): raise ValueError\ndef work(x: A() = 0): return x"
    ),
    "no attributes": ("class A:\n def __getattr__(self, name): raise ValueError\ndef work(x: A() = 0): return x"),
    "a module without attributes": (
        "import types\nclass M(types.ModuleType):\n def __getattr__(self, name): raise ValueError\n"
        "m = M('m')\ndef work(x=0): return m.x"
    ),
    "a helper of a module without attributes": (
        "import deps.tools as t\ndef fail(name): raise ValueError\nt.__getattr__ = fail\n"
        "def helper(): pass\nhelper.__module__ = 'deps.tools'\ndef work(x=0): return helper()"
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_the_error_names_the_function_if_it_uses(kind: str) -> None:
    call = Called(script(HOSTILE[kind]))
    assert dependencies_of(call.space["work"]) is None
    with pytest.raises(UnserializableError, match="'work' cannot be sent to a host"):
        call(1)


def test_a_helper_whose_look_up_fails_later_is_a_change() -> None:
    call = Called(script(TOOL))
    dependencies = dependencies_of(call.space["work"])
    assert dependencies is not None

    def fail(name: str) -> None:
        raise ValueError(name)

    tools: Any = sys.modules["deps.tools"]
    tools.__getattr__ = fail
    del tools.tool
    assert not dependencies.are_unchanged()


#: A function, and the values that its global K gets while the function is pickled. The globals of a closure are read once
#: each time, those of other functions twice.
PICKLED_TWICE = {
    "a function": ("def work(x=0): return K, changes", (1, 2)),
    "a closure": ("def make(k):\n def work(x=0): return K, k, changes\n return work\nwork = make(1)", (2,)),
}


@pytest.mark.parametrize("kind", PICKLED_TWICE)
def test_a_change_while_a_function_is_pickled_is_not_kept(kind: str) -> None:
    """Another thread sets a global after the function was pickled for its digest, and before it was for the call."""
    text, changed_to = PICKLED_TWICE[kind]
    call = Called(script(f"K = 1\n{text}"))
    values = iter(changed_to)

    class Changes:
        def __reduce__(self) -> Any:
            call.space["K"] = next(values, 1)
            return int, ()

    call.space["changes"] = Changes()
    changed = call(1)
    call.space["K"] = 1
    assert call(1).bytes.function.blob != changed.bytes.function.blob


def test_a_script_may_add_globals_while_a_function_is_pickled() -> None:
    call = Called(script("A = B = 1\ndef work(x=0): return A + B"))

    class Name(str):
        """Adds a global when anything looks at it."""

        __slots__ = ()

        def __hash__(self) -> int:
            call.space[f"made{len(call.space)}"] = 1
            return hash(str(self))

    call.space[Name("C")] = 1
    call(1)


def test_a_function_is_pickled_anew_in_a_forked_process(monkeypatch: pytest.MonkeyPatch) -> None:
    dependencies = dependencies_of(script("def work(x=0): return x")["work"])
    assert dependencies is not None
    monkeypatch.setattr(tokens, "_origin", "that of the fork")
    assert not dependencies.are_unchanged()


def test_a_list_that_grows_is_sent_as_it_is_at_each_call() -> None:
    call = Called(script("K = [1]\ndef work(x=0): return K"))
    blobs = set()
    for _ in range(3):
        blobs.add(call(1).bytes.function.blob)
        call.space["K"].append(1)
    assert len(blobs) == 3


def test_code_among_the_arguments_comes_with_the_function_that_uses_it() -> None:
    call = Called(script("class A: pass\nK = 1\ndef helper(): return K\ndef work(x=0): return helper()"))
    plain = call(1)
    with_code = call(call.space["helper"])
    assert with_code.bytes.function.blob != plain.bytes.function.blob
    assert call(1).bytes.function.blob == plain.bytes.function.blob


def test_functions_that_call_each_other_are_compared_once_each() -> None:
    space = script("def work(x=0): return other(x)\ndef other(x): return work(x)")
    dependencies = dependencies_of(space["work"])
    assert dependencies is not None
    assert len(dependencies.functions) == 2
    assert dependencies.are_unchanged()


def test_nothing_that_a_function_uses_is_kept_alive() -> None:
    call = Called(script(HELPER))
    call(1)
    alive = [weakref.ref(call.space[name]) for name in ("work", "helper")]
    call.space.clear()
    gc.collect()
    assert [each() for each in alive] == [None, None]
