"""What the definitions of any problem are written with: a name in; the source of its view, or a field of it, out.

`feast apply` takes the definitions from their folder and this from the installed package, as it takes the stores.
"""

from __future__ import annotations

import os

from feast import Field, FileSource
from feast.data_format import DeltaFormat
from feast.types import FeastType


def delta_source(view: str, description: str) -> FileSource:
    """Where the rows of a view lie: a Delta table of its own, relative to the definitions or where FTI_TABLES says.

    It has the columns that every feature table has: `event_timestamp` and `created_timestamp`, UTC.
    """
    return FileSource(
        name=f"{view}_source",
        path=f"{os.environ.get('FTI_TABLES') or '../data'}/features/{view}",
        file_format=DeltaFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        description=description,
    )


def field(name: str, dtype: FeastType, description: str, unit: str, **tags: str) -> Field:
    """A field, which says its unit; any other tag is as in docs/how-to/another-problem.md."""
    return Field(name=name, dtype=dtype, description=description, tags={"unit": unit, **tags})
