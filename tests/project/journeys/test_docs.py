"""Every command of the pages, run as it stands, page by page, in a checkout of its own with the trained workspace.

What stands in front of a block says how (see tests/pages.py); DOCS_SLOW=1 runs the slow ones, too, an hour of them.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.pages import ROOT, Block, commands, pages
from tests.project_copy import copy_project

PATIENCE = 120
PORT = "localhost:3000"
ALSO_SLOW = bool(os.environ.get("DOCS_SLOW"))
RUN = {"run", "background", *(["slow"] if ALSO_SLOW else [])}
TRIED = [page for page in pages() if any(block.how in RUN for block in commands(page))]


def environment(project: Path, port: int) -> dict[str, str]:
    """As a new terminal has it: nothing of this test's own settings points to another project."""
    ours = ("SERVING_", "TRAINING_", "MONITORING_", "FTI_", "FEAST_", "MLFLOW_TRACKING", "MAKE", "MFLAGS", "PYTEST_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    path = f"{project / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return kept | {"PATH": path, "SERVING_PORT": str(port), "FEAST_USAGE": "False", "PYTHONDONTWRITEBYTECODE": "1"}


@contextmanager
def running(block: Block, project: Path, settings: dict[str, str]) -> Iterator[None]:
    """A command that goes on: begun when the service answers that it is ready, ended with all its children."""
    with (project / "background.log").open("w") as log:
        server = subprocess.Popen(
            ["sh", "-ec", block.text], cwd=project, env=settings, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while not _ready(int(settings["SERVING_PORT"])):
            said = (project / "background.log").read_text()[-3000:]
            assert server.poll() is None, f"{block.name}: {said}"
            assert time.monotonic() < deadline, f"{block.name}: {said}"
            time.sleep(0.5)
        yield
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def run(block: Block, project: Path, settings: dict[str, str]) -> None:
    """The block as a script that ends at its first failure; its exit code and output are as the page says."""
    text = block.text.replace(PORT, f"localhost:{settings['SERVING_PORT']}")
    done = subprocess.run(
        ["sh", "-ec", text], cwd=project, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=900,
    )  # fmt: skip
    assert done.returncode in block.codes, f"{block.name} ended with {done.returncode}:\n{text}\n{done.stdout[-4000:]}"
    for line in block.shown:
        assert shows(done.stdout, line), f"{block.name} does not print {line!r}:\n{done.stdout[-4000:]}"


def shows(output: str, line: str) -> bool:
    """Whether a line of the output is like this one: `...` is anything, and so is how wide a gap is."""
    parts = (re.sub(r"(?:\\ )+", r"\\s+", re.escape(part)) for part in re.split(r"\.\.\.+", line.strip()))
    return re.search(rf"^\s*{'.*'.join(parts)}\s*$", output, re.MULTILINE) is not None


@pytest.mark.parametrize("page", TRIED, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_do_what_it_says(page, trained, tmp_path):
    """In order, each after the one before it; a page begins where `make run` ends."""
    project = copy_project(tmp_path / "project", trained.root)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        settings = environment(project, probe.getsockname()[1])
    told = [block for block in commands(page) if block.how in RUN]
    background = [block for block in told if block.how == "background"]
    assert len(background) <= 1, "one service at a time"
    rest = [block for block in told if block.how != "background"]
    first = rest if not background else [block for block in rest if block.line < background[0].line]
    for block in first:
        run(block, project, settings)
    if background:
        with running(background[0], project, settings):
            for block in rest[len(first) :]:
                run(block, project, settings)


def test_a_line_that_is_not_printed_is_missed():
    """The comparison is no formality: gaps and dots are free, everything else is not."""
    output = "23:15:22 step ingest weather    rows=71 changed=0 version=0 held=1 0.09s\n"
    assert shows(output, "...step ingest weather ... changed=0 ... held=1 ...")
    assert not shows(output, "...step ingest weather ... changed=1 ...")
    assert not shows(output, "step ingest weather ... held=1 ...")
