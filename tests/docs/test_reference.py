"""The reference pages: the site builds without a warning, the pages describe every public name, and examples run."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import textwrap
from html.parser import HTMLParser
from pathlib import Path

import pytest

import handout
import handout.errors
import handout.events
import handout.journal

ROOT = Path(handout.__file__).parents[1]

#: Names from `handout.events`, `handout.errors` and `handout.journal` that need a section of their own as well.
ELSEWHERE = [
    *handout.events.__all__,
    *handout.errors.__all__,
    "read",
    "Story",
    "RunRecord",
    "TaskRecord",
    "AttemptRecord",
    "Backend",
]


class Sections(HTMLParser):
    """Collects the text of each documented object of a page, by the object's name."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[str]] = {}
        self._in_name = False
        self._texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        classes = (dict(attrs).get("class") or "").split()
        if "doc-object-name" in classes:
            self._in_name = True

    def handle_data(self, data: str) -> None:
        if self._in_name:
            self._in_name = False
            self._texts = self.found.setdefault(data.strip(), [])
        elif data.strip():
            self._texts.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocstrings", reason="the documentation's tools are not installed: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def sections(site: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for page in sorted((site / "reference").rglob("*.html")):
        parser = Sections()
        parser.feed(page.read_text(encoding="utf-8"))
        for name, texts in parser.found.items():
            found[name] = found.get(name, "") + " ".join(texts)
    return found


def words_of(text: str | None) -> str:
    """Return only the letters and digits of a text, so that a docstring can be compared with its rendering."""
    return re.sub(r"[\W_]+", "", text or "")


@pytest.mark.timeout(300)
@pytest.mark.xdist_group("site")
def test_every_public_name_has_a_section_with_its_description(sections: dict[str, str]) -> None:
    sections["Event"] = sections["RunEvent"]  # two names of one class
    modules = {name for name in handout.__all__ if inspect.ismodule(getattr(handout, name))}
    assert [name for name in handout.__all__ if name not in sections and name not in modules] == []
    assert [name for name in ELSEWHERE if name not in sections] == []
    undescribed = []
    for name in handout.__all__:
        public = getattr(handout, name)
        if inspect.isclass(public) or inspect.isfunction(public):
            summary = words_of(inspect.cleandoc(public.__doc__ or "").partition("\n\n")[0])
            if not summary or summary not in words_of(sections[name]):
                undescribed.append(name)
    assert undescribed == []


@pytest.mark.timeout(300)
@pytest.mark.xdist_group("site")
def test_no_section_shows_a_module_instead_of_its_function(site: Path) -> None:
    """`handout.locality` is a function. `handout.allocators.locality` is the module that defines it."""
    pages = {page.parent.name: page.read_text(encoding="utf-8") for page in (site / "reference").rglob("*.html")}
    assert [name for name, text in pages.items() if "doc-symbol-module" in text] == []


@pytest.mark.timeout(300)
@pytest.mark.xdist_group("site")
def test_every_public_method_has_a_section(sections: dict[str, str]) -> None:
    """Inherited methods, such as `Graph.add`, need a section as well."""
    wanted = {
        name
        for cls in public_classes()
        for base in cls.__mro__
        if base.__module__.startswith("handout")
        for name, member in vars(base).items()
        if not name.startswith(("_", "model_")) and inspect.isfunction(member)  # model_...: names of pydantic
    }
    assert {"add", "map", "reduce", "drain"} < wanted
    assert wanted - sections.keys() == set()


@pytest.mark.timeout(300)
@pytest.mark.xdist_group("site")
@pytest.mark.parametrize(
    "options", [handout.Options, handout.RunOptions, handout.ClusterOptions], ids=lambda o: o.__name__
)
def test_every_option_is_described_where_editors_and_readers_look(options: type, sections: dict[str, str]) -> None:
    own = own_annotations(options)
    described = attributes_of(options)
    assert own
    assert own == set(described)
    for name, text in described.items():
        assert len(text.split()) > 3, name
        assert words_of(text) in words_of(sections[options.__name__]), name


def own_annotations(cls: type) -> set[str]:
    """Return the names that a class itself annotates, without the names that it inherits."""
    if cls is handout.ClusterOptions:  # Python copies the keys of a TypedDict into its subclasses
        return set(cls.__annotations__) - set(handout.RunOptions.__annotations__)
    return set(vars(cls).get("__annotations__", ()))


def attributes_of(cls: type) -> dict[str, str]:
    """Return the text of each attribute in the ``Attributes`` section of a docstring, which ``help(cls)`` shows."""
    text = inspect.cleandoc(cls.__doc__ or "")
    block = re.search(r"^Attributes:\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
    entries = re.findall(
        r"^(\w+): ((?:.*\n?)(?:    .*\n?)*)", textwrap.dedent(block.group(1)) if block else "", re.MULTILINE
    )
    return {name: " ".join(entry.split()) for name, entry in entries}


def public_classes() -> list[type]:
    names = [getattr(handout, name) for name in handout.__all__]
    return [each for each in names if inspect.isclass(each) and each.__module__.startswith("handout")]


@pytest.mark.parametrize("cls", public_classes(), ids=lambda cls: cls.__name__)
def test_every_public_member_of_a_public_class_has_a_docstring(cls: type) -> None:
    described = attributes_of(cls).keys() | {name for name, _ in literals_of(cls)}
    for name, member in vars(cls).items():
        if name.startswith("_"):
            continue
        if isinstance(member, (classmethod, staticmethod)):
            member = member.__func__
        if inspect.isfunction(member) or isinstance(member, property):
            assert inspect.getdoc(member) or name in described, f"{cls.__name__}.{name}"
    for name in own_annotations(cls):
        if not name.startswith("_") and name != "model_config":  # an attribute of pydantic
            assert name in described or name in arguments_of(cls), f"{cls.__name__}.{name}"


def arguments_of(cls: type) -> set[str]:
    """Return the names in the ``Args`` section of a class's docstring."""
    block = re.search(r"^Args:\n((?:    .*\n?|\n)+)", inspect.cleandoc(cls.__doc__ or ""), re.MULTILINE)
    return set(re.findall(r"^    \*{0,2}(\w+):", block.group(1), re.MULTILINE)) if block else set()


def literals_of(cls: type) -> list[tuple[str, str]]:
    """Return the name of each annotated attribute that has a string below it, with that string."""
    try:
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError, ValueError):
        return []
    assert isinstance(node, ast.ClassDef)
    pairs = zip(node.body, node.body[1:], strict=False)
    return [
        (first.target.id, second.value.value)
        for first, second in pairs
        if isinstance(first, ast.AnnAssign) and isinstance(first.target, ast.Name)
        if isinstance(second, ast.Expr) and isinstance(second.value, ast.Constant)
        if isinstance(second.value.value, str)
    ]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "handout").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT / "handout"))
)
def test_docstrings_are_markdown(path: Path) -> None:
    """MkDocs would show a Sphinx role such as ``:func:`` as raw text."""
    source = path.read_text(encoding="utf-8")
    assert re.findall(r":(?:func|class|meth|mod|attr|data|exc|ref|term|doc):`", source) == []


def blocks_of(text: str | None) -> list[str]:
    found = re.findall(r"^ *```python\n(.*?)^ *```$", inspect.cleandoc(text or ""), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for block in found]


def public_objects() -> dict[str, object]:
    rooms = [handout, handout.errors, handout.events, handout.journal]
    if importlib.util.find_spec("joblib"):
        rooms.append(importlib.import_module("handout.joblib"))
    return {
        name: getattr(room, name) for room in rooms for name in room.__all__ if hasattr(getattr(room, name), "__doc__")
    }


def examples() -> list[tuple[str, str]]:
    return [(name, code) for name, public in public_objects().items() for code in blocks_of(public.__doc__)]


def examples_of_members() -> list[tuple[str, str]]:
    return [
        (f"{cls.__name__}.{name}", code)
        for cls in public_classes()
        for name, member in inspect.getmembers(cls, inspect.isfunction)
        for code in blocks_of(member.__doc__)
    ]


def needs_example() -> list[str]:
    return [
        name
        for name in handout.__all__
        if inspect.isfunction(public := getattr(handout, name)) or inspect.isclass(public)
        if public.__module__.startswith("handout")
        if not (inspect.isclass(public) and issubclass(public, (Exception, handout.Event)))
    ]


@pytest.mark.parametrize("name", needs_example())
def test_every_public_function_and_class_has_an_example(name: str) -> None:
    assert name in {each for each, _ in examples()}


@pytest.mark.parametrize(("name", "code"), [*examples(), *examples_of_members()], ids=lambda each: each[:30])
def test_examples_compile(name: str, code: str) -> None:
    compile(code, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


#: Functions and values that examples use without defining them.
GIVEN = """
import asyncio
import handout

def load(path="data.csv"):
    return [1.0, 2.0, 6.0]

def split(numbers):
    return numbers[:2], numbers[2:]

def train(numbers, depth=1):
    return {"weights": sum(numbers), "depth": depth}

def render(model):
    return str(model)

graph = handout.Graph()
data = graph.add(load, id="load")
"""

#: Names whose examples need hosts. Tests compile these examples, but do not run them.
NEED_HOSTS = {"ClusterOptions"}


@pytest.mark.parametrize(
    ("name", "code"),
    [each for each in examples() if each[0] not in NEED_HOSTS],
    ids=[name for name, _ in examples() if name not in NEED_HOSTS],
)
async def test_examples_run(name: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.csv").write_text("1\n2\n6\n", encoding="utf-8")
    scope: dict[str, object] = {"__name__": "example"}
    exec(compile(GIVEN, name, "exec", dont_inherit=True), scope)
    running = eval(compile(code, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True), scope)
    async with asyncio.timeout(60):
        if inspect.iscoroutine(running):
            await running
        main = scope.get("main")
        if inspect.iscoroutinefunction(main):
            await main()
