"""`make serve`: check what would stop the service, start it with BentoML, and say what to do with it.

`--check` only looks whether the port is free: `make run` asks before it spends minutes. Exit codes: 0 done, 1 refused.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fti.errors import Refusal
from fti.project import project
from fti.serving.keys import require_keys
from fti.serving.settings import ServingSettings

PATIENCE = 120
NO_MODEL = "the service has no model to serve; its log above says why"


class CannotStart(Refusal):
    """The service would not start, or would have nothing to serve."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="fti.serving.start", description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="only look whether the port is free")
    options = parser.parse_args(argv)
    try:
        settings = ServingSettings()
        require_keys(settings)
        require_free_port(settings)
        return 0 if options.check else serve(settings)
    except ValidationError as error:
        first = error.errors()[0]
        name = f"SERVING_{str(first['loc'][0]).upper()}"
        print(f"error: {name}: {first['msg']}, found {first['input']!r}", file=sys.stderr)
    except Refusal as error:
        print(f"error: {error}", file=sys.stderr)
    return 1


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
    """Run BentoML until it ends; returns its exit code."""
    command = [str(Path(sys.executable).with_name("bentoml")), "serve", "serving.service:PredictionService"]
    began = time.monotonic()
    server = subprocess.Popen([*command, "--host", settings.host, "--port", str(settings.port)], cwd=project().root)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: server.send_signal(number))
    address = address_of(settings)
    model = wait_until_ready(address, server)
    if model is not None:
        print(welcome(address, model, time.monotonic() - began), flush=True)
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
    server.terminate()
    server.wait()
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
