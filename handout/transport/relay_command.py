"""The command of a relay, which a login shell of a host runs."""

from __future__ import annotations

from handout.transport.bootstrap import StartedAgent
from handout.transport.start_command import CLEAN_PATH, HIDE_PATH, for_login_shell, quote_path

__all__ = ["relay_command"]


def relay_command(started: StartedAgent, marker: str) -> str:
    """Return the command line of a relay on the host.

    A relay is a program that copies bytes between an SSH session and the agent's socket. It is used if the server
    forbids the forwarding of sockets. It gets the variables that its Python may need to start: `handout.host.boot` has
    written them to a file in the agent's folder, because the setup line is not run again.
    """
    code = (
        f"import sys;{CLEAN_PATH};sys.path.insert(0,sys.argv[1]);import handout.host.relay as r;r.main(*sys.argv[2:])"
    )
    words = [started.executable, "-c", code, started.bundle, started.socket, marker]
    variables = f". {quote_path(f'{started.folder}/relay.sh')}; "
    script = variables + HIDE_PATH + "exec " + " ".join(quote_path(word) for word in words)
    return for_login_shell(["sh", "-c", script])
