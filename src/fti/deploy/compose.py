"""What `compose.yaml` mounts: a folder in; secrets and configuration files out, the same that one host's profile has.

    fti compose
    docker compose -f deploy/compose.yaml up --wait

Both may be done again: clients' keys, the number of workers and what is in ROLE.own.env stay. `prepare` is for the
containers of that name: databases, roles, buckets and users, once the servers are there. Exit codes: 0 done, 1 failed,
2 wrong usage.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from fti.command import alias, fail
from fti.deploy.backup import let_the_administrator_in
from fti.deploy.folder import NotHealthy
from fti.deploy.servers import PREPARE
from fti.deploy.stack import ARTIFACTS, BUCKET, ROLES, Stack, lines
from fti.errors import one_line
from fti.project import project

PORTS = {"postgres": 5432, "valkey": 6379, "objects": 8333, "mlflow": 5000, "service": 3000}
SECRETS = Path("/run/secrets")  # where a container finds what it is given
STORE = "feature_repo/production/feature_store.yaml"
# Where each image has the project: the Bento's, and that of deploy/Dockerfile.
HOMES = {"serving": "/home/bentoml/bento/src"}
OWN = ("serving", "loop", "mlflow")  # who is also told what is in a file that a person writes
WRITERS = {BUCKET: ("features", "training", "loop"), ARTIFACTS: ("mlflow",)}  # who writes each bucket


class Composed(Stack):
    """The same servers, each by its own name and on its usual port."""

    def host(self, server: str) -> str:
        return server

    def port(self, server: str) -> int:
        return PORTS[server]

    def environment(self, role: str) -> dict[str, str]:
        told = super().environment(role) | {"FEAST_FS_YAML_FILE_PATH": f"{HOMES.get(role, '/app')}/{STORE}"}
        if role == "serving":
            told |= {"SERVING_HOST": "0.0.0.0", "SERVING_API_KEYS": str(SECRETS / "api-keys")}  # noqa: S104 - in a container
        return told

    def mlflow_environment(self) -> dict[str, str]:
        return super().mlflow_environment() | {
            "MLFLOW_AUTH_CONFIG_PATH": str(SECRETS / "basic_auth.ini"),
            # Since 3.5 MLflow answers only to names that it is told.
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"mlflow:{PORTS['mlflow']},localhost:*,127.0.0.1:*",
        }

    def object_users(self) -> str:
        """SeaweedFS' users: each may use the buckets that it writes, and the administrator makes them."""
        rights = {"admin": ["Admin"]}
        for bucket, users in WRITERS.items():
            may = [f"{action}:{bucket}" for action in ("Read", "Write", "List", "Tagging")]
            rights |= dict.fromkeys(users, may)
        return json.dumps({"identities": [self._object_user(user, may) for user, may in rights.items()]}, indent=1)

    def _object_user(self, user: str, actions: list[str]) -> dict[str, Any]:
        keys = {"accessKey": user, "secretKey": self.password(f"objects-{user}")}
        return {"name": user, "credentials": [keys], "actions": actions}

    def configure(self) -> None:
        """Write what compose.yaml mounts. Containers have users of their own, who read these files by themselves; the
        folder is its owner's alone, so nobody else on this machine gets to them."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o700)
        files = {
            "users.acl": self.valkey_users(),
            "basic_auth.ini": self.mlflow_auth(),
            "s3.json": self.object_users(),
            "postgres.password": self.password("postgres"),
            "api-keys": self.api_keys(),
            "mlflow.env": lines(self.mlflow_environment()),
        } | {f"{role}.env": lines(self.environment(role)) for role in ROLES}
        for name, text in files.items():
            self.write(name, text).chmod(0o644)
        (self.root / "settings.json").chmod(0o644)
        monitoring = self.root / "monitoring"
        if not monitoring.exists():  # the loop's user writes reports there, and may be unknown here
            monitoring.mkdir()
            monitoring.chmod(0o777)
        for role in OWN:
            if not (self.root / f"{role}.own.env").exists():
                self.write(f"{role}.own.env", f"# What {role} is told besides {role}.env, which is written anew.\n")

    def api_keys(self) -> str:
        """The administrator's key of now, and those of the clients that a person gave one."""
        file = self.root / "api-keys"
        there = file.read_text().splitlines() if file.exists() else []
        clients = [line for line in there if line.split()[:1] not in ([], ["admin"])]
        key = hashlib.sha256(self.password("service-admin").encode()).hexdigest()
        return "\n".join([f"admin {key} admin", *clients, ""])


def prepare(stack: Stack, server: str) -> None:
    """What has to be there in a server. Raises NotHealthy when MLflow refuses its administrator."""
    from mlflow.exceptions import MlflowException

    try:
        PREPARE[server](stack)
    except MlflowException as error:
        raise NotHealthy(
            f"MLflow refused: {one_line(error)}. Its administrator's password is to be that of settings.json: "
            "`prepare postgres` makes it so."
        ) from error
    if server == "postgres":  # one that was restored on another machine has the password of there
        let_the_administrator_in(stack)


def main(argv: list[str] | None = None) -> int:
    return alias("fti.deploy.compose", "fti.deploy.commands:COMPOSE", argv)


def execute(command: str, folder: Path | None = None, workers: int | None = None, servers: Sequence[str] = ()) -> int:
    """Carry out one command; returns the exit code."""
    stack = Composed((folder or project().root / "data" / "compose").resolve())
    try:
        if workers is not None:
            stack.remember(workers=workers)
        if command == "prepare":
            for server in servers:
                prepare(stack, server)
        else:
            if command == "rotate":
                stack.rotate()
            stack.configure()
            print(f"The service's key, for who runs it, is `service-admin` in {stack.root / 'settings.json'}.")
            print("Next: docker compose -f deploy/compose.yaml up --wait")
    except (OSError, psycopg.Error) as error:
        return fail(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
