"""Modules that code names only in texts."""

from __future__ import annotations

import pytest

from handout.serialization.modules_in_text import modules_in_code, modules_in_text


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("run([exe, '-c', 'import mine; print(mine.f())'])", {"mine"}),
        ("run([exe, '-c', f'from mine.sub import f; f({x})'])", {"mine"}),
        ("run([exe, '-m', 'mine.sub'])", {"mine"}),
        ("run([exe, '-c', 'import json, mine.sub as m, other'])", {"json", "mine", "other"}),
        ("run(f'{exe} -m mine.sub --all')", {"mine"}),
        ("run('python3 -u -m mine'.split())", {"mine"}),
        ("importlib.import_module('mine.sub')", {"mine"}),
        ("__import__('mine')", {"mine"}),
        ("importlib.resources.files('mine') / 'table.json'", {"mine"}),
        ("pkgutil.get_data('mine', 'x')", {"mine"}),
        ("metadata.version('mine')", {"mine"}),
        ("{'data': 1, 'mode': 'mine'}", set()),
        ("'from . import mine'", set()),
        ("'it is important'", set()),
    ],
)
def test_names_are_found_in_code_and_in_sources(source: str, names: set[str]) -> None:
    code = compile(source, "<test>", "eval")
    assert {name.partition(".")[0] for name in modules_in_code(code)} - {"x", "table"} == names
    assert set(modules_in_text(source)) == names
