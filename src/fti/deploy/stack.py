"""What the production profile runs on one host: a folder in; addresses, and what servers and roles are told, out.

Each role gets variables of its own, with the rights it needs and no others: serving cannot write features, nor move an
alias.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from fti.deploy.folder import HOST, SERVERS, Folder, NotHealthy
from fti.project import project

DATABASES = {"feast": "features", "mlflow": "mlflow", "predictions": "monitor"}  # by name: who owns it
ROLES = ("features", "training", "serving", "loop")
BUCKET, ARTIFACTS = "lake", "artifacts"
ENOUGH = "+ping +client|setinfo +client|setname +select"
# What Feast's Redis store calls: reading is one command; deleting a view's rows needs the rest.
VALKEY_RIGHTS = {
    "features": f"{ENOUGH} +hmget +hget +hset +hkeys +hdel +del +scan +eval",
    "serving": f"{ENOUGH} +hmget",
    "admin": "&* +@all",
}


class Stack(Folder):
    """The servers of one folder."""

    @property
    def workers(self) -> int:
        """How many processes the service has."""
        return int(self.settings.get("workers", 2))

    def adopt(self, told: Mapping[str, str]) -> None:
        """Let tables lie where FTI_TABLES names a place of one's own, which AWS_* open; MLflow's files beside them.

        Raises NotHealthy for a place that is another one in each folder, or another one than the databases know.
        """
        tables = told.get("FTI_TABLES")
        if not tables or told.get("AWS_ENDPOINT_URL") == self.url("objects"):  # which this profile's roles are told
            return
        if "://" not in tables and not Path(tables).is_absolute():
            raise NotHealthy(f"FTI_TABLES is {tables}, but servers run in a folder of their own. Give it whole.")
        before = self.store["FTI_TABLES"] if self.store else "its own object store"
        if tables != before and (self.root / "postgres").exists():
            raise NotHealthy(
                f"FTI_TABLES is {tables}, and what the databases in {self.root} know lies in {before}. Go on with "
                "that: FTI_TABLES= (empty). Begin anew: down --purge."
            )
        opening = {name: value for name, value in told.items() if name.startswith("AWS_") and value}
        self.remember(store={"FTI_TABLES": tables} | opening)

    @property
    def store(self) -> dict[str, str] | None:
        """FTI_TABLES and AWS_* of a place of one's own, if there is one."""
        return self.settings.get("store")

    @property
    def servers(self) -> tuple[str, ...]:
        """Those of SERVERS that there are: no emulator of an object store where there is a place of one's own."""
        return tuple(server for server in SERVERS if server != "objects" or self.store is None)

    def host(self, server: str) -> str:  # noqa: ARG002 - elsewhere each has a name of its own
        return HOST

    def port(self, server: str) -> int:
        return int(self.settings["ports"][server])

    # ---- addresses ---------------------------------------------------------------------------------------------------

    def postgres(self, user: str, database: str) -> str:
        where = f"{self.host('postgres')}:{self.port('postgres')}"
        return f"postgresql+psycopg://{user}:{self.password(user)}@{where}/{database}"

    def redis(self, user: str) -> str:
        """As Feast takes it. Features are worth waiting half a second for; who fills the store may wait longer."""
        patience = "socket_timeout=0.5,socket_connect_timeout=0.5" if user == "serving" else "socket_timeout=30"
        where = f"{self.host('valkey')}:{self.port('valkey')}"
        return f"{where},username={user},password={self.password('valkey-' + user)},{patience}"

    def url(self, server: str) -> str:
        return f"http://{self.host(server)}:{self.port(server)}"

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
            "FEAST_FS_YAML_FILE_PATH": str(project().repo / "production" / "feature_store.yaml"),
            "FEAST_REGISTRY": self.postgres(registry, "feast"),
            "FEAST_REDIS": self.redis(store) if store else "no-online-store:0",
            "MLFLOW_TRACKING_URI": self.url("mlflow"),
            "MLFLOW_TRACKING_USERNAME": models,
            "MLFLOW_TRACKING_PASSWORD": self.password("mlflow-" + models),
        }
        if role != "serving":
            told |= self.store or {"FTI_TABLES": f"s3://{BUCKET}/fti"} | self.object_store(role)
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
        self.write("valkey/users.acl", self.valkey_users())
        self.write(
            "valkey/valkey.conf",
            f"port {self.port('valkey')}\nbind {HOST}\ndir {self.root}/valkey\naclfile {self.root}/valkey/users.acl\n"
            'save ""\nappendonly yes\n',
        )
        self.write("mlflow/basic_auth.ini", self.mlflow_auth())
        for role in ROLES:
            self.write(f"env/{role}.env", lines(self.environment(role)))

    def valkey_users(self) -> str:
        users = [f"user {user} on >{self.password('valkey-' + user)} ~* {may}" for user, may in VALKEY_RIGHTS.items()]
        return "\n".join(["user default off", *users, ""])

    def mlflow_auth(self) -> str:
        return (
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {self.postgres('mlflow', 'mlflow')}\n"
            f"admin_username = admin\nadmin_password = {self.password('admin')}\nauth_cache_ttl_seconds = 60\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )

    def mlflow_environment(self) -> dict[str, str]:
        """The variables of MLflow's server."""
        return {
            "MLFLOW_AUTH_CONFIG_PATH": str(self.root / "mlflow" / "basic_auth.ini"),
            "MLFLOW_BACKEND_STORE_URI": self.postgres("mlflow", "mlflow"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": self.password("mlflow-sessions"),
        } | self._artifacts()

    def _artifacts(self) -> dict[str, str]:
        if self.store is None:
            return {"MLFLOW_ARTIFACTS_DESTINATION": f"s3://{ARTIFACTS}"} | self.object_store("mlflow")
        opening, tables = dict(self.store), self.store["FTI_TABLES"].rstrip("/")
        del opening["FTI_TABLES"]
        beside = "-artifacts" if urlsplit(tables).path else "/artifacts"  # of s3://BUCKET, within it
        return {"MLFLOW_ARTIFACTS_DESTINATION": tables + beside} | opening

    # ---- who runs Postgres -------------------------------------------------------------------------------------------

    @property
    def postgres_user(self) -> str:
        """Postgres refuses to run as root."""
        return "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name

    @property
    def postgres_group(self) -> int:
        return pwd.getpwnam(self.postgres_user).pw_gid


def lines(environment: dict[str, str]) -> str:
    """Variables as an environment file has them."""
    return "".join(f"{name}={value}\n" for name, value in environment.items())
