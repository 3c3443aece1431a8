"""`make serve`: check what would stop the service, start it with BentoML, and say what to do with it.

`--check` only looks whether the port is free: `make run` asks before it spends minutes. Exit codes: 0 done, 1 refused.
"""

from __future__ import annotations

import argparse
import json
import os
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

from serving.settings import ROOT, ServingSettings

PATIENCE = 120


class CannotStart(RuntimeError):
    """The service would not start, or would have nothing to serve."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="serving.start", description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="only look whether the port is free")
    options = parser.parse_args(argv)
    try:
        settings = ServingSettings()
        require_free_port(settings)
        return 0 if options.check else serve(settings)
    except ValidationError as error:
        first = error.errors()[0]
        print(f"error: SERVING_{str(first['loc'][0]).upper()}: {first['msg']}, found {first['input']!r}", file=sys.stderr)
    except CannotStart as error:
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
    address = f"http://{'localhost' if settings.host in ('127.0.0.1', '0.0.0.0') else settings.host}:{settings.port}"
    began = time.monotonic()
    server = subprocess.Popen(
        [*command, "--host", settings.host, "--port", str(settings.port)],
        cwd=ROOT,
        # SQLAlchemy and tornado warn of their own code's future, into a log that people read.
        env={"PYTHONWARNINGS": "ignore::DeprecationWarning"} | os.environ,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: server.send_signal(number))
    model = wait_until_ready(address, server)
    if model is not None:
        print(welcome(address, model, time.monotonic() - began), flush=True)
    return server.wait()


def wait_until_ready(address: str, server: subprocess.Popen[bytes]) -> dict[str, Any] | None:
    """The service's account of its model, once it can answer; None when the server ended first. Raises CannotStart."""
    deadline = time.monotonic() + PATIENCE
    problem = f"the service did not answer within {PATIENCE} s; its log above says why"
    while time.monotonic() < deadline:
        if server.poll() is not None:
            return None
        try:
            with urllib.request.urlopen(f"{address}/livez", timeout=5):
                pass
            with urllib.request.urlopen(f"{address}/model", timeout=5) as response:
                model: dict[str, Any] = json.load(response)
                return model
        except urllib.error.HTTPError as error:
            # It answers, and has no model: waiting does not help.
            problem = json.load(error).get("error", str(error))
            break
        except OSError:
            time.sleep(0.3)
    server.terminate()
    server.wait()
    raise CannotStart(problem)


def welcome(address: str, model: dict[str, Any], seconds: float) -> str:
    """What was built, and a request to paste."""
    contract = model["contract"]
    interface, training = contract["interface"], contract["training_set"]
    request = json.dumps(contract["example_request"])
    return "\n".join(
        [
            "",
            f"Serving {model['name']} version {model['version']} at {address}  (ready after {seconds:.0f} s)",
            f"  predicts  {interface['label']}: {interface['label_definition']}",
            f"  reads     {interface['feature_service']}, {len(interface['inputs'])} inputs from "
            f"{len(interface['stored_views'])} feature views and the request",
            f"  fitted to {training['rows']:,} rows of [{training['start'][:10]}, {training['end'][:10]}), "
            f"judged up to {training['as_of'][:10]}",
            f"  try it on {address}/docs, or paste:",
            "",
            f"  curl -s {address}/predict -H 'Content-Type: application/json' -d '{request}'",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
