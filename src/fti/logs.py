"""The one logging set-up of all commands: a line a step on stderr, and libraries' noise only when it is asked for."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

OURS = ("step", "features", "training", "cycle", "fti")
# py.warnings: Feast 0.67 calls every on-demand view experimental, and SQLAlchemy tells its plans, at every start.
NOISY = ("alembic", "feast", "great_expectations", "ibis", "matplotlib", "mlflow", "py.warnings", "py4j")
# Read by the libraries themselves, when they are imported: MLflow sets the levels of its loggers anew then.
QUIET = {"MLFLOW_LOGGING_LEVEL": "ERROR", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
NO_BARS = {"TQDM_DISABLE": "1"}
DIM, RESET = "\x1b[2m", "\x1b[0m"

_VERBOSE: list[bool] = []  # not empty: what libraries print is shown


class BesideBars(logging.StreamHandler):
    """Log to stderr, above whatever progress bar is drawn there."""

    def emit(self, record: logging.LogRecord) -> None:
        if "tqdm" not in sys.modules or not sys.stderr.isatty():
            super().emit(record)
            return
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def set_up(verbose: bool = False) -> None:
    """Configure logging for one command, before a heavy library is imported."""
    _VERBOSE[:] = [True] if verbose else []
    moment = f"{DIM}%(asctime)s{RESET}" if coloured() else "%(asctime)s"
    logging.basicConfig(
        level=logging.WARNING, format=f"{moment} %(message)s", datefmt="%H:%M:%S", handlers=[BesideBars()]
    )
    for name in OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.ERROR)
    logging.captureWarnings(True)
    if verbose:
        return
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # some libraries turn these on, as if for us
    for variable, value in (QUIET | ({} if sys.stderr.isatty() else NO_BARS)).items():
        os.environ.setdefault(variable, value)


def coloured() -> bool:
    """Whether stderr is a terminal of someone who wants colours."""
    return sys.stderr.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


@contextmanager
def quiet_output() -> Iterator[None]:
    """Keep what a library prints from stdout: it goes to stderr with `-v`, and nowhere without."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(sys.stderr if _VERBOSE else nowhere):
        yield
