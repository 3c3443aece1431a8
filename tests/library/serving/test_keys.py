"""API keys: who gets in, what the file holds, and what happens when it changes or cannot be read."""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import os
import threading
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fti.serving.keys import ApiKeys, Client, KeysNeeded, KeysUnreadable, NotAllowed, is_local, main, require_keys
from fti.serving.settings import ServingSettings

HERE = {"server": ("127.0.0.1", 3000), "method": "GET", "headers": [(b"host", b"localhost:3000")]}
ELSEWHERE = HERE | {"server": ("192.0.2.7", 3000)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def make(file: Path, name: str, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert main([name, str(file), *flags]) == 0
    return capsys.readouterr().out.strip()


def test_without_keys_only_this_machine_gets_in():
    """By the address that was asked, whatever the service was told to listen on."""
    keys = ApiKeys(None)
    assert keys.require(HERE, "") == Client("local", admin=True)
    for scope in (ELSEWHERE, {"server": None}, {}):
        with pytest.raises(NotAllowed, match="no API keys"):
            keys.require(scope, "Bearer whatever")


def test_with_keys_everybody_needs_one(file, capsys):
    """From this machine too; the file holds no key and nobody else may read it."""
    alice, bob = make(file, "alice", capsys), make(file, "bob", capsys)
    keys = ApiKeys(file)
    assert keys.require(ELSEWHERE, f"Bearer {alice}") == Client("alice", admin=False)
    assert keys.require(HERE, f"bearer {bob}") == Client("bob", admin=False)
    for given in (
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {alice}x",
        f"Basic {alice}",
        "Bearer \u00e9",
        "Basic \u00e9",
        "Basic eA==",
    ):
        with pytest.raises(NotAllowed):
            keys.require(HERE, given)
    assert alice not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0


def test_a_browser_sends_the_key_as_a_password(file, capsys):
    """Whatever name a person types with it."""
    alice = make(file, "alice", capsys)
    typed = base64.b64encode(f"me:{alice}".encode()).decode()
    assert ApiKeys(file).require(ELSEWHERE, f"Basic {typed}").name == "alice"


def test_a_key_of_who_runs_the_service_is_marked_in_the_file(file, capsys):
    """Only `admin` makes an admin; another word in its place lets nobody in."""
    alice, root = make(file, "alice", capsys), make(file, "root", capsys, "--admin")
    keys = ApiKeys(file)
    assert keys.require(HERE, f"Bearer {root}") == Client("root", admin=True)
    assert not keys.require(HERE, f"Bearer {alice}").admin
    file.write_text(file.read_text().replace(" admin", " Admin"))
    with pytest.raises(KeysUnreadable, match="found the role 'Admin' of root"):
        keys.require(HERE, f"Bearer {alice}")


def test_a_key_is_rotated_without_a_restart(file, capsys):
    """A new line lets in, a line taken out lets in no more."""
    old = make(file, "old", capsys)
    keys = ApiKeys(file)
    assert keys.require(HERE, f"Bearer {old}").name == "old"
    new = make(file, "new", capsys)
    assert keys.require(HERE, f"Bearer {new}").name == "new"
    file.write_text("\n".join(line for line in file.read_text().splitlines() if not line.startswith("old")))
    with pytest.raises(NotAllowed):
        keys.require(HERE, f"Bearer {old}")
    assert keys.require(HERE, f"Bearer {new}").name == "new"


@pytest.mark.parametrize(
    "content", [None, "alice", *(f"alice {word}" for word in ("a" * 64 + " more", "a" * 63, "g" * 64, "\u00e9" * 64))]
)
def test_a_file_that_cannot_be_read_lets_nobody_in(file, content):
    """Missing, or not a name and a hash a line."""
    if content is not None:
        file.write_text(content)
    with pytest.raises(KeysUnreadable, match="a line of it is `NAME SHA256`"):
        ApiKeys(file).require(HERE, "Bearer x")


def test_a_hash_in_capitals_is_the_same_hash(file, capsys):
    """Some tools print them so."""
    alice = make(file, "alice", capsys)
    name, digest = file.read_text().split()
    file.write_text(f"{name} {digest.upper()}\n")
    assert ApiKeys(file).require(HERE, f"Bearer {alice}").name == "alice"


def test_adding_keys_refuses_nobody_meanwhile(file, capsys):
    """A valid key gets in at each moment of a hundred additions."""
    alice = make(file, "alice", capsys)
    adding, asked, refused = threading.Event(), 0, []

    def add() -> None:
        for number in range(100):
            main([f"client{number}", str(file)])
        adding.set()

    thread = threading.Thread(target=add)
    thread.start()
    while not adding.is_set():
        asked += 1
        try:
            ApiKeys(file).require(HERE, f"Bearer {alice}")
        except (NotAllowed, KeysUnreadable) as error:
            refused.append(error)
    thread.join()
    assert asked > 100
    assert not refused
    assert len(file.read_text().splitlines()) == 101


def test_two_that_add_keys_at_once_lose_none(file, capsys):
    """The second waits for the first, and adds to what that one left."""
    folder = os.open(file.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    second = threading.Thread(target=main, args=[["bob", str(file)]])
    second.start()
    second.join(0.3)
    assert second.is_alive()
    assert not file.exists()
    file.write_text(f"alice {'a' * 64}\n")
    os.close(folder)
    second.join()
    assert [line.split()[0] for line in file.read_text().splitlines()] == ["alice", "bob"]
    capsys.readouterr()


def test_a_key_in_a_file_is_its_owners_and_is_not_lost_to_a_second_run(file, capsys, monkeypatch):
    """Prometheus reads its key from one. Neither the same name again nor another one, nor a full disk, touches it."""
    to, flags = file.with_name("prometheus.key"), ["--admin", "--to"]
    assert make(file, "prometheus", capsys, *flags, str(to)) == ""
    key, rights = to.read_text(), to.stat().st_mode & 0o777
    assert rights == 0o600
    assert ApiKeys(file).require(HERE, f"Bearer {key}") == Client("prometheus", admin=True)
    for name, why in (("prometheus", "has a key of prometheus already"), ("other", "File exists")):
        with pytest.raises(SystemExit):
            main([name, str(file), *flags, str(to)])
        assert why in capsys.readouterr().err
        assert (to.read_text(), to.stat().st_mode & 0o777) == (key, 0o600)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemExit):
        main(["other", str(file), *flags, str(file.with_name("other.key"))])
    assert sorted(one.name for one in file.parent.iterdir()) == [file.name, to.name]
    assert [line.split()[0] for line in file.read_text().splitlines()] == ["prometheus"]


def test_a_change_within_one_tick_of_the_clock_is_read(file):
    """Lines of another length under the old time, and a new file of the old length and time."""
    digests = [hashlib.sha256(key.encode()).hexdigest() for key in ("old", "new")]
    file.write_text(f"a {digests[0]}\n")
    before = file.stat()
    keys = ApiKeys(file)
    assert keys.require(HERE, "Bearer old").name == "a"
    file.write_text(f"longer {digests[1]}\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert keys.require(HERE, "Bearer new").name == "longer"
    other = file.with_name("other")
    other.write_text(f"change {digests[0]}\n")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)
    assert keys.require(HERE, "Bearer old").name == "change"


def test_a_link_stays_one_and_the_file_keeps_its_rights(file, capsys):
    """A container reads a file with a user of its own: what was opened to it stays open, and nothing is left beside."""
    kept = file.parent / "kept" / "api-keys"
    kept.parent.mkdir()
    kept.touch(0o600)
    kept.chmod(0o644)
    file.symlink_to(kept)
    alice = make(file, "alice", capsys)
    assert file.is_symlink()
    assert kept.stat().st_mode & 0o777 == 0o644
    assert [one.name for one in kept.parent.iterdir()] == ["api-keys"]
    assert ApiKeys(file).require(HERE, f"Bearer {alice}").name == "alice"


def test_what_cannot_be_written_is_left_as_it_was(file, capsys, monkeypatch):
    """A full disk, here at the last moment: the old keys go on working, and no half of a file lies about."""
    alice = make(file, "alice", capsys)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemExit):
        main(["bob", str(file)])
    assert "No space left" in capsys.readouterr().err
    assert [one.name for one in file.parent.iterdir()] == [file.name]
    assert ApiKeys(file).require(HERE, f"Bearer {alice}").name == "alice"


def test_a_name_is_taken_once(file, capsys):
    """A second key under a name would make a rotation ambiguous."""
    make(file, "alice", capsys)
    with pytest.raises(SystemExit):
        main(["alice", str(file)])
    assert "has a key of alice already" in capsys.readouterr().err


def test_a_service_for_other_machines_does_not_start_without_keys(file):
    """And says how to make one."""
    with pytest.raises(KeysNeeded, match=r"fti keys NAME FILE"):
        require_keys(ServingSettings(host="0.0.0.0"))
    require_keys(ServingSettings(host="0.0.0.0", api_keys=file))
    require_keys(ServingSettings(host="::1"))
    assert [is_local(host) for host in ("127.0.0.1", "localhost", "10.0.0.1", "", "example.org")] == [
        True, True, False, False, False,
    ]  # fmt: skip


def test_the_hash_of_an_empty_key_lets_nobody_in(file):
    """`echo -n $KEY | sha256sum` with KEY unset writes it, and whoever sends no key would have that one."""
    file.write_text(f"alice {hashlib.sha256(b'').hexdigest()} admin\n")
    for given in ("", "Bearer", "Bearer ", "Basic Og==", "Basic", "Basic !"):
        with pytest.raises(KeysUnreadable, match="hash of an empty key"):
            ApiKeys(file).require(HERE, given)


def test_one_key_of_two_names_lets_nobody_in(file):
    """Which of their roles it has would depend on the order of the lines."""
    digest = hashlib.sha256(b"shared").hexdigest()
    file.write_text(f"alice {digest}\nroot {digest.upper()} admin\n")
    with pytest.raises(KeysUnreadable, match="alice and root have the same key"):
        ApiKeys(file).require(HERE, "Bearer shared")


def test_a_key_ends_with_its_day(file, capsys):
    """Up to that day's beginning, in UTC; who has it is told since when. `--days` says how long it lives."""
    today = datetime.now(UTC).date()
    digest, keys = hashlib.sha256(b"key").hexdigest(), ApiKeys(file)
    for words, admin in ((f"admin until={today + timedelta(days=1)}", True), (f"until={date.max}", False)):
        file.write_text(f"alice {digest} {words}\n")
        assert keys.require(HERE, "Bearer key") == Client("alice", admin=admin)
    for until in (today, today - timedelta(days=400)):
        file.write_text(f"alice {digest} until={until}\n")
        with pytest.raises(NotAllowed, match=f"expired on {until}"):
            keys.require(HERE, "Bearer key")
    file.write_text(f"alice {digest} until=soon\n")
    with pytest.raises(KeysUnreadable, match="cannot be read"):
        keys.require(HERE, "Bearer key")
    file.unlink()
    bob = make(file, "bob", capsys, "--days", "1")
    assert f" until={today + timedelta(days=2)}\n" in file.read_text()
    assert keys.require(HERE, f"Bearer {bob}").name == "bob"
    for days in ("0", "-1", "99999"):
        with pytest.raises(SystemExit):
            main(["carol", str(file), "--days", days])


def test_what_changes_in_the_file_is_audited(file):
    """Who is added, removed, or has another role or end, by name; never a key or its hash."""
    told: list[Any] = []
    one, two = (hashlib.sha256(key).hexdigest() for key in (b"one", b"two"))
    keys = ApiKeys(file, audit=told.append)
    for lines in (f"a {one}", f"a {one}\n", f"a {one} admin\nb {two} until=2999-01-01", f"b {two} until=2999-01-01"):
        file.write_text(lines)
        with suppress(NotAllowed):
            keys.require(HERE, "Bearer one")
    assert [(one["first"], one["added"], one["removed"]) for one in told] == [
        (True, ["a"], []),
        (False, ["a admin", "b until=2999-01-01"], ["a"]),
        (False, [], ["a admin"]),
    ]


def test_a_forwarded_request_is_not_from_this_machine():
    """A proxy on this machine asks for somebody elsewhere, whatever its header is called."""
    for name in (b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-x", b"forwarded", b"via", b"x-real-ip"):
        scope = HERE | {"client": ("127.0.0.1", 1), "headers": [(b"host", b"localhost:3000"), (name, b"127.0.0.1")]}
        with pytest.raises(NotAllowed, match="SERVING_TRUSTED_PROXIES"):
            ApiKeys(None).require(scope, "")


def test_every_site_may_ask_only_where_there_are_keys(file):
    """`*` without keys would let every page that is open in a browser here ask."""
    with pytest.raises(KeysNeeded, match="SERVING_CORS_ORIGINS"):
        require_keys(ServingSettings(cors_origins="*"))
    require_keys(ServingSettings(cors_origins="*", api_keys=file))
