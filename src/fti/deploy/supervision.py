"""Who watches the servers: a stack in; its supervisor started, told something, and ended with all that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import psutil

from fti.deploy.folder import NotHealthy
from fti.deploy.programs import inherited, supervised
from fti.deploy.stack import Stack

LONGEST_SOCKET = 100  # bytes of a path, of which Unix takes 107 and the supervisor adds some
GRACE = 60.0  # seconds to end in, when asked to
# Servers that leave no variables to be seen, by what they are called: each works in a folder of the profile.
HIDDEN = {"postgres": "postgres", "valkey-server": "valkey"}


def configure(stack: Stack) -> None:
    """Write what the servers, the roles and the supervisor are told. Raises NotHealthy for too long a path."""
    if len(str(stack.socket)) > LONGEST_SOCKET:
        raise NotHealthy(f"{stack.socket} is too long a path for a socket. Name a folder nearer to /: --folder.")
    stack.configure()
    stack.write("supervisor.conf", supervised(stack, os.environ))


def supervise(stack: Stack) -> None:
    """Start the supervisor, or tell the one that runs what `configure` wrote. Raises NotHealthy."""
    if supervisor(stack) is not None:
        control(stack, "update")  # which stops what is told something else now
        return
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", "supervisor.conf"]
    done = subprocess.run(command, cwd=stack.root, env=inherited(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotHealthy(f"The supervisor did not start: {done.stderr.strip()[-500:]}")


def supervisor(stack: Stack) -> psutil.Process | None:
    """The running supervisor of this folder: not just any process that got its number later."""
    try:
        process = psutil.Process(int((stack.root / "supervisor.pid").read_text()))
        return process if Path(process.cwd()) == stack.root and "supervisor.supervisord" in process.cmdline() else None
    except (OSError, ValueError, psutil.Error):
        return None


def control(stack: Stack, *command: str) -> None:
    """Tell the supervisor something. Raises NotHealthy when it cannot be reached."""
    asked = [sys.executable, "-m", "supervisor.supervisorctl", "-c", "supervisor.conf", *command]
    done = subprocess.run(asked, cwd=stack.root, capture_output=True, text=True, check=False)
    if "refused connection" in done.stdout or "no such file" in done.stdout:
        raise NotHealthy(
            f"The supervisor does not answer: {done.stdout.strip()}. See {stack.root}/logs/supervisor.log."
        )


def processes(stack: Stack) -> set[psutil.Process]:
    """All that runs of this folder: its supervisor, the servers, whether or not their supervisor still lives, and
    what those started."""
    watching = supervisor(stack)
    heads = [process for process in psutil.process_iter() if process == watching or _is_server(process, stack)]
    found = set(heads)
    for head in heads:
        try:
            found.update(head.children(recursive=True))
        except psutil.NoSuchProcess:
            found.discard(head)
    return found


def _is_server(process: psutil.Process, stack: Stack) -> bool:
    try:
        if folder := HIDDEN.get(process.name()):
            return Path(process.cwd()) == stack.root / folder
        return process.environ().get("SUPERVISOR_SERVER_URL") == f"unix://{stack.socket}"
    except (OSError, psutil.Error):  # it has ended, or is of another user
        return False


def end(left: Collection[psutil.Process]) -> None:
    """Ask to end, each by its parent if that is one of them. Raises NotHealthy if any has to be killed."""
    for process in left:
        try:
            if process.parent() not in left:
                process.send_signal(signal.SIGINT if process.name() == "postgres" else signal.SIGTERM)
        except psutil.NoSuchProcess:
            continue
    _killed(left)


def down(stack: Stack) -> None:
    """Stop everything, the supervisor last. Raises NotHealthy if anything does not end when asked to."""
    if supervisor(stack) is not None:
        family = processes(stack)
        control(stack, "shutdown")
        _killed(family)
    end(processes(stack))  # of a supervisor that was killed


def _killed(asked: Collection[psutil.Process]) -> None:
    _, left = psutil.wait_procs(asked, timeout=GRACE)
    for process in left:
        process.kill()
    if left:
        psutil.wait_procs(left, timeout=GRACE)
        raise NotHealthy(f"{len(left)} process(es) did not end when asked to, and were killed: {left[0].pid} first.")
