"""Steps and progress bars, as a terminal and as a log see them."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios

LIVED = """
from fti import logs
from fti.steps import progress, step
logs.set_up()
import logging, warnings
logging.getLogger("feast").warning("noise")
warnings.warn("noise", RuntimeWarning)
for name in progress(["a", "b"], "table"):
    with step(f"publish {name}") as report:
        report.update(rows=3)
with logs.quiet_output():
    print("noise")
"""


def test_a_log_has_a_line_when_a_step_starts_and_one_when_it_ends():
    """No bar, no colour, and nothing of what libraries say."""
    done = subprocess.run([sys.executable, "-c", LIVED], capture_output=True, text=True, timeout=60)
    lines = [line.split(maxsplit=1)[1] for line in done.stderr.splitlines()]
    assert [line.split()[:2] for line in lines] == [["publish", name] for name in "aabb"]
    assert lines[0] == "publish a ..."
    assert "rows=3" in lines[1]
    assert "\x1b" not in done.stderr
    assert done.stdout == ""


def test_what_libraries_say_is_shown_when_it_is_asked_for():
    """On stderr, for the output of a command is its own."""
    loud = LIVED.replace("set_up()", "set_up(verbose=True)")
    done = subprocess.run([sys.executable, "-c", loud], capture_output=True, text=True, timeout=60)
    assert done.stderr.count("noise") >= 3
    assert done.stdout == ""


def on_a_terminal(**environment: str) -> str:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    told = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TQDM_DISABLE")}
    done = subprocess.Popen([sys.executable, "-c", LIVED], stderr=theirs, env=told | {"TERM": "xterm"} | environment)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert done.wait(60) == 0
    return shown.decode()


def test_a_terminal_has_colours_and_a_bar():
    """Unless its owner wants no colours."""
    shown = on_a_terminal()
    assert "\x1b[2m" in shown
    assert "/2 [" in shown
    assert "\x1b[2m" not in on_a_terminal(NO_COLOR="1")
