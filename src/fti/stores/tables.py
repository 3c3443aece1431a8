"""Where the tables of a Feast repository lie: in `data/` beside it, or at whatever address `FTI_TABLES` names."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from upath import UPath

from fti.errors import Refusal
from fti.stores.data_format import require_readable

# Begins the name of a feature table's held rows, where a raw table of the same name has held rows of its own.
OF_FEATURES = "features_"
TRAINING_SETS = "training_sets"  # the folder of the tables that keep them, a table for each feature service
CONTENT = "sha256"  # in the metadata of a commit of such a table: the hash of its rows
# What delta-rs 1.6 takes for something else in a path of this machine, or panics at.
UNDECODED = re.compile(r"[\udc80-\udcff]")  # how Python keeps the bytes of a name that its encoding does not know
IMPOSSIBLE = re.compile(r"[\[\]|^\\\x00-\x1f\x7f]|%[0-9A-Fa-f]{2}")


class TablesNowhere(Refusal):
    """`FTI_TABLES` does not say where the tables are for every process alike."""


class PathRefused(Refusal):
    """A folder has a name in which no Delta table can be."""


def data_of(repo: Path) -> Path:
    """The folder for what stays on this machine: locks, reports, the embedded profile's registry and stores."""
    return repo.resolve().parent / "data"


def address(path: str | UPath) -> str:
    """Return where a table, or a folder of them, is, as delta-rs is told. Raises PathRefused."""
    text = str(path)
    if UNDECODED.search(str(Path(text).absolute()) if "://" not in text else text):
        raise PathRefused(
            f"The name of the folder {text!a} is not read as UTF-8: PYTHONUTF8 is 0, and the locale says "
            f"{sys.getfilesystemencoding()}. Unset PYTHONUTF8, or set it to 1, and run the same command again."
        )
    if "://" not in text and (impossible := IMPOSSIBLE.search(str(Path(text).resolve()))):
        raise PathRefused(
            f"No table can be in the folder {text}: {impossible[0]!r} in the name of a folder is not what Delta Lake's "
            "library takes. Move the repository, or set FTI_TABLES to a folder without any of [ ] | ^ \\ and without a "
            "% before two hexadecimal digits."
        )
    return text


def tables_of(repo: Path) -> UPath:
    """The root of the raw, quarantine, feature and training set tables: `data_of`, or an address such as s3://lake/fti.

    Who may read and write there is told by the variables of the object store's own tools, `AWS_*` for S3.
    Raises TablesNowhere, PathRefused, DataTooNew.
    """
    require_readable(data_of(repo))
    told = os.environ.get("FTI_TABLES")
    if told and "://" not in told and not Path(told).is_absolute():
        raise TablesNowhere(
            f"FTI_TABLES is {told}, but commands run in several folders. Give it whole: {Path(told).resolve()}"
        )
    tables = UPath(told or data_of(repo))
    address(tables)  # that no table can be there, is said before any is looked for
    return tables


def tables_in(folder: UPath) -> list[str]:
    """The names of the tables in a folder of them, in order; none, where there is no such folder."""
    from deltalake.fs import DeltaStorageHandler
    from pyarrow.fs import FileSelector, PyFileSystem

    if folder.protocol in ("", "file") and not folder.exists():
        return []  # which the handler would make
    found = PyFileSystem(DeltaStorageHandler(address(folder))).get_file_info(FileSelector("", allow_not_found=True))
    return sorted(one.base_name for one in found)
