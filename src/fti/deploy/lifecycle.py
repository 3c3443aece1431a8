"""The servers of a profile, started and found healthy in order, and what runs of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from fti.deploy.folder import HOST
from fti.deploy.postgres import init_postgres
from fti.deploy.servers import PREPARE, forgotten, healthy, wait
from fti.deploy.stack import Stack
from fti.deploy.supervision import configure, control, end, processes, supervise, supervisor

FORGOTTEN = (
    "warning: the object store is empty, and Postgres still has what belongs to tables and models that were in it: a "
    "registry, aliases, finished steps. It is an emulator that forgets when it ends. Begin anew: down --purge, then "
    "up; and have FTI_TABLES name a place of your own before that `up`, to keep what is made."
)


def up(stack: Stack, servers: Sequence[str] | None = None) -> None:
    """Start what is not running, all unless some are named, each once those before it are healthy.

    Raises NotHealthy; NotAProfile, when the folder is somebody else's.
    """
    stack.claim()
    configure(stack)
    if supervisor(stack) is None and (left := processes(stack)):
        print(f"{len(left)} process(es) had outlived their supervisor, and are ended first.", flush=True)
        end(left)
    init_postgres(stack)
    supervise(stack)
    for server in servers or stack.servers:
        began = time.perf_counter()
        control(stack, "start", server)
        wait(stack, server)
        if server == "objects" and forgotten(stack):
            print(FORGOTTEN, file=sys.stderr)
        PREPARE.get(server, lambda _: None)(stack)
        print(f"{server:9} healthy at {_address(stack, server)} after {time.perf_counter() - began:.1f} s", flush=True)


def status(stack: Stack) -> str:
    """A line a server: whether it runs, whether it is healthy, and where it is."""
    if supervisor(stack) is None:
        if left := processes(stack):
            names = ", ".join(sorted({process.name() for process in left}))
            return (
                f"{len(left)} process(es) of {stack.root} run without the supervisor that watched them ({names}). "
                "End them: make production-down; make production-up does so, too, and starts anew."
            )
        return f"Nothing runs in {stack.root}. Start it: make production-up"
    lines = [
        f"{server:9} {'healthy' if healthy(stack, server) else 'down':8} {_address(stack, server)}"
        for server in stack.servers
    ]
    places = {
        "tables": stack.environment("loop")["FTI_TABLES"],
        "logs": stack.root / "logs",
        "roles": stack.root / "env",
    }
    return "\n".join([*lines, *(f"{name:9} {place}" for name, place in places.items())])


def _address(stack: Stack, server: str) -> str:
    return stack.url(server) if server in ("objects", "mlflow", "service") else f"{HOST}:{stack.port(server)}"
