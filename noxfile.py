"""The checks and the other jobs of the project, as nox sessions: ``nox -l`` lists them.

``nox --no-venv -s NAME`` runs a session in the current environment. ``.ci/run`` runs its sessions this way.
"""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["tests", "types", "lint"]
nox.options.reuse_existing_virtualenvs = True

#: The systems beside which docs/howto/side_by_side.md shows Handout. The blocks of that page run with them.
PEERS = ["distributed>=2024.8", "prefect>=3", "ray>=2.9"]
TYPED = ["handout", "examples", "tools", "benchmarks/soak", "noxfile.py"]


def _install(session: nox.Session, *requirements: str) -> None:
    if session.virtualenv.is_sandboxed:
        session.install(*requirements)


def _build_docs(session: nox.Session, *command: str) -> None:
    for tool in ("draw_states", "draw_protocol", "draw_layers"):
        session.run("python", f"tools/{tool}.py", "--check")
    session.run("python", "-m", "mkdocs", *(command or ("build", "--strict")), env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def demo(session: nox.Session) -> None:
    """Run the README's demo: index the words of the standard library, with workers on this machine."""
    _install(session, "-e", ".")
    session.run("python", "examples/wordcount.py", *session.posargs)


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """Run the README's tests on each Python that the controller supports. Leave out versions that are not installed."""
    _install(session, "-e", ".[dev]")
    session.run("python", "-m", "pytest", "-n", "2", *session.posargs)


@nox.session
def full(session: nox.Session) -> None:
    """Run every test and all soaks, and build the documentation. Run this session at night, and before a release."""
    _install(session, "-e", ".[dev,docs,libraries]", *PEERS)
    session.run("python", "-m", "pytest", "-n", "2", "-m", "", *session.posargs)
    session.run("python", "-m", "benchmarks.soak", "kills")
    session.run("python", "-m", "benchmarks.soak", "blackouts", "--minutes", "10")
    session.run("python", "-m", "benchmarks.soak", "service")
    _build_docs(session)


@nox.session
def types(session: nox.Session) -> None:
    """Run mypy (strict) and pyright, and check that all public names have complete types."""
    _install(session, "-e", ".[dev]")
    session.run("python", "-m", "mypy", *TYPED)
    session.run("python", "-m", "pyright", *TYPED)
    session.run("python", "tools/type_completeness.py")


@nox.session
def lint(session: nox.Session) -> None:
    """Check the rules and the format with ruff."""
    _install(session, "ruff>=0.9")
    session.run("python", "-m", "ruff", "check", ".")
    session.run("python", "-m", "ruff", "format", "--check", ".")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, and fail if a reference is broken. ``-- serve`` serves the pages instead."""
    _install(session, "-e", ".[docs]")
    _build_docs(session, *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure Handout. ``-- --peers`` also measures other systems on the same work, if they are installed."""
    _install(session, "-e", ".[dev]")
    session.run("python", "-m", "benchmarks", *session.posargs)
