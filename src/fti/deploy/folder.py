"""The folder that a profile lives in: its settings, ports and passwords, each made when it is first needed.

All are in files that only their owner can read.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fti.errors import Refusal

HOST = "127.0.0.1"
SERVERS = ("postgres", "valkey", "objects", "mlflow", "service")  # in this order: each needs those before it
SUPERUSERS = ("postgres", "admin", "valkey-admin")  # their passwords stay when others are rotated


class NotAProfile(Refusal):
    """The folder is somebody else's."""


class NotHealthy(Refusal):
    """A server does not come up, or is not what it should be."""


@dataclass(frozen=True)
class Folder:
    """Where one profile is."""

    root: Path

    @property
    def made(self) -> bool:
        """Whether this folder is a profile's; a settings.json of another program has no ports and passwords."""
        try:
            return {"ports", "passwords"} <= set(json.loads((self.root / "settings.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return False

    def claim(self) -> None:
        """Raises NotAProfile where files are that no profile has put there: nothing of theirs is to be touched."""
        there = {one.name for one in self.root.iterdir()} if self.root.exists() else set()
        if there - {"settings.json.new"} and not self.made:  # .new: of a first start that was killed
            raise NotAProfile(
                f"{self.root} holds {min(there)} and no settings.json of a production profile: nothing was changed. "
                "Name an empty folder, or one that is not there yet: --folder."
            )

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Ports and passwords, made once: `ports` by server, `passwords` by user; and what `remember` was told."""
        file = self.root / "settings.json"
        if not file.exists():
            made = {"ports": _free_ports(SERVERS), "passwords": {}}
            self.write("settings.json", json.dumps(made))
        return dict(json.loads(file.read_text()))

    def remember(self, **told: Any) -> None:
        """Keep what one command was told for those that come later."""
        self.settings.update(told)
        self.write("settings.json", json.dumps(self.settings))

    def password(self, user: str) -> str:
        """A user's password, made when it is first asked for."""
        known = self.settings["passwords"]
        if user not in known:
            known[user] = secrets.token_urlsafe(24)
            self.remember(passwords=known)
        return str(known[user])

    def rotate(self) -> None:
        """Forget every password but the superusers': `up` makes new ones and tells the servers."""
        kept = {user: password for user, password in self.settings["passwords"].items() if user in SUPERUSERS}
        self.remember(passwords=kept)

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


def _free_ports(names: tuple[str, ...]) -> dict[str, int]:
    probes = {name: socket.socket() for name in names}
    for probe in probes.values():
        probe.bind((HOST, 0))
    ports = {name: int(probe.getsockname()[1]) for name, probe in probes.items()}
    for probe in probes.values():
        probe.close()
    return ports
