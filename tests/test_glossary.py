"""The name of a class has one meaning, and so has each word of the glossary."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import handout

HOUSE = Path(handout.__file__).parent
GLOSSARY = HOUSE.parent / "docs" / "index.md"


def classes() -> dict[str, list[str]]:
    """Return the places at which the package defines each class, by the name of the class."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(HOUSE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(f"{path.relative_to(HOUSE)}:{node.lineno}")
    return found


def words() -> list[str]:
    """Return the words of the glossary. A word stands on the line before its definition."""
    text = GLOSSARY.read_text(encoding="utf-8").partition("## Words")[2]
    return [word for line in re.findall(r"^(\w.*)\n: ", text, re.MULTILINE) for word in line.split(", ")]


def test_no_two_classes_have_one_name() -> None:
    assert {name: places for name, places in classes().items() if len(places) > 1} == {}


def test_the_glossary_has_no_word_twice() -> None:
    assert len(words()) > 20
    assert len(words()) == len(set(words()))


def test_a_word_of_the_glossary_is_the_name_of_one_class_at_most() -> None:
    every = classes()
    named = {word: [name for name in every if name.strip("_").lower() == word.replace(" ", "")] for word in words()}
    assert {word: names for word, names in named.items() if len(names) > 1} == {}


def test_a_tuple_has_three_fields_at_most() -> None:
    """A reader cannot tell many fields by their positions, so four or more fields must have names or be columns."""
    wide = [
        f"{path.relative_to(HOUSE)}:{node.lineno} {ast.unparse(node)}"
        for path in sorted(HOUSE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "tuple"
        if isinstance(node.slice, ast.Tuple) and len(node.slice.elts) > 3
        if not any(isinstance(each, ast.Starred) for each in node.slice.elts)
    ]
    assert wide == []
