"""What `fti.serving.start` refuses before it starts anything."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fti.errors import Refusal
from fti.serving.settings import ServingSettings
from fti.serving.start import address_of, main, wait_until_ready, welcome


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> int:
    """A port that something listens on, and that the service is told to use."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        monkeypatch.setenv("SERVING_PORT", str(listener.getsockname()[1]))
        yield listener.getsockname()[1]


@pytest.mark.parametrize("arguments", [[], ["--check"]])
def test_a_port_in_use_is_refused_in_one_line(arguments, busy, capsys):
    """The line names the address and the way out."""
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: cannot listen on 127.0.0.1:{busy}")
    assert "make serve PORT=3001" in said
    assert said.count("\n") == 1


def test_a_name_of_this_machine_is_listened_on_by_its_address(monkeypatch, capsys):
    """BentoML takes IP addresses alone; a name that nobody knows is refused before it is started."""
    monkeypatch.setenv("SERVING_HOST", "localhost")
    assert ServingSettings().host in ("127.0.0.1", "::1")
    for host in ("127.0.0.1", "0.0.0.0", "::1"):
        monkeypatch.setenv("SERVING_HOST", host)
        assert ServingSettings().host == host
    monkeypatch.setenv("SERVING_HOST", "no-such-host.invalid")
    assert main(["--check"]) == 1
    said = capsys.readouterr().err
    assert "SERVING_HOST" in said
    assert "give an IP address" in said
    assert said.count("\n") == 1


def test_check_passes_on_a_free_port(busy, monkeypatch, capsys):
    """`--check` starts nothing and says nothing."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    monkeypatch.setenv("SERVING_PORT", str(free))
    assert main(["--check"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "80000"), ("PORT", "x"), ("POLL_SECONDS", "0"), ("TIMEOUT_SECONDS", "28")]
)
def test_a_bad_setting_is_named_as_its_variable(name, value, monkeypatch, capsys):
    """The line says which environment variable to mend."""
    monkeypatch.setenv(f"SERVING_{name}", value)
    assert main(["--check"]) == 1
    said = capsys.readouterr().err
    assert f"SERVING_{name}" in said
    assert value in said


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://localhost:3000"),
        ("0.0.0.0", "http://localhost:3000"),
        ("::1", "http://[::1]:3000"),
        ("10.1.2.3", "http://10.1.2.3:3000"),
    ],
)
def test_the_address_can_be_pasted(host, address):
    """What the service prints is a URL that this machine can open."""
    assert address_of(ServingSettings(host=host)) == address


class Keyed(BaseHTTPRequestHandler):
    """A service that wants a key for all but its probes."""

    ready = True

    def do_GET(self) -> None:
        self.send_response(401 if self.path != "/readyz" else 200 if self.ready else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("ready", [True, False])
def test_a_service_that_wants_a_key_is_left_alone_once_it_is_ready(ready, monkeypatch):
    """This command has no key: it asks the probe, and refuses only a service that has no model."""
    monkeypatch.setattr(Keyed, "ready", ready)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Keyed)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        try:
            if ready:
                model = wait_until_ready(address, process)
                assert process.poll() is None
                assert (
                    welcome(address, model, 3).strip()
                    == f"Serving at {address}, for those with a key  (ready after 3 s)"
                )
            else:
                # What any command line prints as one line: the replay's too, which starts a service beside it.
                with pytest.raises(Refusal, match="no model to serve; its log above says why"):
                    wait_until_ready(address, process)
        finally:
            process.kill()
            server.shutdown()
