"""Prints the outcomes of the corpus as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmarks.pickling.cases import Case

__all__ = ["markdown"]

_KINDS = ("ok", "error", "wrong", "crash", "broken")
Outcomes = dict[str, dict[str, list[str]]]


def markdown(cases: Sequence[Case], outcomes: Outcomes) -> str:
    """Return the table of all strategies, the table by kind, and what fails under each strategy by name."""
    return "\n\n".join([_totals(cases, outcomes), _by_kind(cases, outcomes), _failures(cases, outcomes)])


def _row(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _totals(cases: Sequence[Case], outcomes: Outcomes) -> str:
    lines = [_row("strategy", *_KINDS, "ok, %"), _row(*["---"] * (len(_KINDS) + 2))]
    for name, found in outcomes.items():
        count = Counter(found[case.name][0] for case in cases)
        share = 100 * count["ok"] / max(1, len(cases))
        lines.append(_row(name, *(count[kind] for kind in _KINDS), f"{share:.1f}"))
    return "\n".join(lines)


def _by_kind(cases: Sequence[Case], outcomes: Outcomes) -> str:
    lines = [_row("kind", "cases", *outcomes), _row(*["---"] * (len(outcomes) + 2))]
    for kind in sorted({kind for case in cases for kind in case.kinds}):
        of_kind = [case for case in cases if kind in case.kinds]
        cells = [_cell(of_kind, found) for found in outcomes.values()]
        lines.append(_row(kind, len(of_kind), *cells))
    return "\n".join(lines)


def _cell(cases: Sequence[Case], found: dict[str, list[str]]) -> str:
    count = Counter(found[case.name][0] for case in cases)
    wrong = f" ({count['wrong']} wrong)" if count["wrong"] else ""
    return f"{count['ok']}{wrong}"


def _failures(cases: Sequence[Case], outcomes: Outcomes) -> str:
    parts = []
    for name, found in outcomes.items():
        failed = [case for case in cases if found[case.name][0] != "ok"]
        lines = [f"- {case.name}: {found[case.name][0]}: {found[case.name][1]}" for case in failed]
        parts.append("\n".join([f"### What fails with {name}", "", *(lines or ["Nothing."])]))
    return "\n\n".join(parts)
