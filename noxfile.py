"""Every check and errand of the project by name: ``nox -l`` lists them.

``nox --no-venv -s NAME`` runs a session in the environment at hand, which is how ``.ci/run`` uses them.
"""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["tests", "types", "lint"]
nox.options.reuse_existing_virtualenvs = True

TYPED = ["handout", "examples", "tools", "noxfile.py"]


def _install(session: nox.Session, *requirements: str) -> None:
    if session.virtualenv.is_sandboxed:
        session.install(*requirements)


@nox.session
def demo(session: nox.Session) -> None:
    """The README's demo: word statistics over the standard library, on this machine's own workers."""
    _install(session, "-e", ".")
    session.run("python", "examples/wordcount.py", *session.posargs)


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """The whole suite, on each Python that the controller supports; missing ones are skipped."""
    _install(session, "-e", ".[dev]")
    session.run("python", "-m", "pytest", "-n", "2", *session.posargs)


@nox.session
def types(session: nox.Session) -> None:
    """Mypy strict, pyright, and pyright's verdict on how completely the public names are typed."""
    _install(session, "-e", ".[dev]")
    session.run("python", "-m", "mypy", *TYPED)
    session.run("python", "-m", "pyright", *TYPED)
    session.run("python", "tools/type_completeness.py")


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    _install(session, "ruff>=0.9")
    session.run("python", "-m", "ruff", "check", ".")
    session.run("python", "-m", "ruff", "format", "--check", ".")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, strictly: a broken reference is an error. ``-- serve`` to read it live."""
    _install(session, "-e", ".[docs]")
    session.run("python", "tools/draw_states.py", "--check")
    session.run("python", "tools/draw_protocol.py", "--check")
    session.run("python", "tools/draw_layers.py", "--check")
    session.run(
        "python",
        "-m",
        "mkdocs",
        *(session.posargs or ["build", "--strict"]),
        env={"NO_MKDOCS_2_WARNING": "1"},
    )


@nox.session
def bench(session: nox.Session) -> None:
    """Measure; ``-- --peers`` runs the neighbouring systems on the same work where they are installed."""
    _install(session, "-e", ".[dev]")
    session.run("python", "-m", "benchmarks", *session.posargs)
