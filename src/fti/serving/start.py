"""`make serve`: check what would stop the service, start it with BentoML, and say what to do with it.

`--check` only looks whether the port is free: `make run` asks before it spends minutes. Exit codes: 0 done, 1 refused.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from pydantic import ValidationError

from fti.command import alias, fail
from fti.errors import Refusal
from fti.project import project
from fti.serving.keys import require_keys
from fti.serving.settings import GRACE_SECONDS, ServingSettings

PATIENCE = 120
NO_MODEL = "the service has no model to serve; its log above says why"


class CannotStart(Refusal):
    """The service would not start, or would have nothing to serve."""


def main(argv: list[str] | None = None) -> int:
    return alias("fti.serving.start", "fti.serving.commands:SERVE", argv)


def start(check: bool) -> int:
    """Serve, or only `check` what would stop the service; returns the exit code."""
    try:
        settings = ServingSettings()
    except ValidationError as error:
        first = error.errors()[0]
        return fail(f"SERVING_{str(first['loc'][0]).upper()}: {first['msg']}, found {first['input']!r}")
    require_keys(settings)
    require_free_port(settings)
    return 0 if check else serve(settings)


def require_free_port(settings: ServingSettings) -> None:
    """Raises CannotStart when the address cannot be listened on."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise CannotStart(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror}. "
                "Stop what listens there, or choose another port: make run PORT=3001 (make serve PORT=3001)."
            ) from error


def serve(settings: ServingSettings) -> int:
    """Run BentoML until it ends; returns its exit code. Raises CannotStart, and KeyboardInterrupt once it has ended."""
    command = [str(Path(sys.executable).with_name("bentoml")), "serve", "serving.service:PredictionService"]
    began, ready = time.monotonic(), False
    # In a session of its own: a terminal's Ctrl-C is for this process, which ends the service as far as it has come.
    server = subprocess.Popen(
        [*command, "--host", settings.host, "--port", str(settings.port)], cwd=project().root, start_new_session=True
    )
    signal.signal(signal.SIGTERM, _terminate)
    try:
        address = address_of(settings)
        model = wait_until_ready(address, server)
        ready = True
        if model is not None:
            print(welcome(address, model, time.monotonic() - began), flush=True)
        return server.wait()
    except Terminated:
        return end(server, ready)
    except BaseException:
        end(server, ready)
        raise


class Terminated(BaseException):
    """SIGTERM."""


def _terminate(*_: object) -> None:
    raise Terminated


def end(server: subprocess.Popen[bytes], drain: bool) -> int:
    """End the service and all of its processes; returns its exit code.

    One that is ready is asked to `drain`. One that starts answers nobody, and BentoML 1.4's workers hear of no signal
    for as long as they import: they are killed, each by itself, for each has a session of its own.
    """
    family: list[psutil.Process] = []

    def kill(*_: object) -> None:
        with suppress(psutil.NoSuchProcess):
            main = psutil.Process(server.pid)
            main.suspend()  # it starts no other worker meanwhile
            family.extend([*main.children(recursive=True), main])
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    with suppress(psutil.NoSuchProcess):
        family.extend(psutil.Process(server.pid).children(recursive=True))
    for number in (signal.SIGINT, signal.SIGTERM):  # a second one does not wait
        signal.signal(number, kill)
    if drain and server.poll() is None:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(GRACE_SECONDS + 5)
    kill()
    return server.wait()


def address_of(settings: ServingSettings) -> str:
    """Where a client on this machine finds the service."""
    host = "localhost" if settings.host in {"127.0.0.1", "0.0.0.0", "::"} else settings.host  # noqa: S104 - no binding
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def wait_until_ready(address: str, server: subprocess.Popen[bytes]) -> dict[str, Any] | None:
    """The service's account of its model, once it can answer; None when the server ended first. Raises CannotStart.

    A service that wants a key gives none to this command, which knows hashes only: the account is empty then.
    """
    # Whatever proxy the environment names, the service is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + PATIENCE
    problem = f"the service did not answer within {PATIENCE} s; its log above says why"
    while time.monotonic() < deadline:
        if server.poll() is not None:
            return None
        try:
            # The port is open before the service is: one question waits there for the answer.
            with opener.open(f"{address}/model", timeout=PATIENCE) as response:
                model: dict[str, Any] = json.load(response)
                return model
        except urllib.error.HTTPError as error:
            wants_key = error.code == 401
            if wants_key and _is_ready(opener, address):
                return {}
            # It answers, and has no model: waiting does not help.
            problem = NO_MODEL if wants_key else json.load(error).get("error", str(error))
            break
        except OSError:
            time.sleep(0.3)
    raise CannotStart(problem)


def _is_ready(opener: urllib.request.OpenerDirector, address: str) -> bool:
    try:
        opener.open(f"{address}/readyz", timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return False
    return True


def welcome(address: str, model: dict[str, Any], seconds: float) -> str:
    """What was built, and a request to paste; of a service that wants a key, where it is."""
    if not model:
        return f"\nServing at {address}, for those with a key  (ready after {seconds:.0f} s)\n"
    contract = model["contract"]
    interface, training = contract["interface"], contract["training_set"]
    inputs, views = len(interface["inputs"]), len(interface["stored_views"])
    start, end, as_of = (training[moment][:10] for moment in ("start", "end", "as_of"))
    request = json.dumps(contract["example_request"])
    return "\n".join(
        [
            "",
            f"Serving {model['name']} version {model['version']} at {address}  (ready after {seconds:.0f} s)",
            f"  predicts  {interface['label']}: {interface['label_definition']}"
            + (f", in {interface['unit']}" if "unit" in interface else ""),
            f"  reads     {interface['feature_service']}, {inputs} inputs from {views} feature views and the request",
            f"  fitted to {training['rows']:,} rows of [{start}, {end}), judged up to {as_of}",
            f"  try it on {address}, or paste:",
            "",
            f"  curl -s {address}/predict -H 'Content-Type: application/json' -d '{request}'",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
