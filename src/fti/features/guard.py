"""What applying the definitions would change, and whether that is allowed: a Feast repository in, text or refusal out.

What is allowed is in fti/contract/applying.py, which Feast's own commands ask, too.
"""

from __future__ import annotations

import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fti.contract.applying import require_allowed
from fti.features.draft import drafted, live
from fti.features.feast_steps import feast_errors

if TYPE_CHECKING:
    import pyarrow as pa
    from feast.diff.registry_diff import RegistryDiff

COLOURS = {"added": "\033[32m", "changed": "\033[33m", "removed": "\033[31m"}
# When it was applied, and by whom it is kept, are not what it means; pickled code differs where its text does not.
NOISE = {"meta", "project", "body"}


def plan(repo: Path) -> str:
    """What `apply` would change, one line an object; coloured when standard output is a terminal. Changes nothing.

    Raises FeastFailed.
    """
    with drafted(repo) as (_, contents), tempfile.TemporaryDirectory() as folder:
        from feast.diff.registry_diff import diff_between

        applied = live(repo, Path(folder))
        lines = _lines(diff_between(applied.registry, applied.project, contents))
    return "\n".join(lines) or "No changes: the registry says what the definitions say."


def check(repo: Path, tables: bool = True) -> None:
    """Check the definitions as if they were applied. Without `tables`, which are about to be written, leave those out.

    Raises what `require_allowed` raises, and FeastFailed.
    """
    with drafted(repo) as (draft, _):
        require_allowed(draft, repo, partial(was_applied, repo), tables)


def check_rows(repo: Path, rows: Mapping[str, pa.Table]) -> None:
    """Check rows of feature tables, by the table's path, against the definitions as if those were applied.

    Raises FieldMistyped, FeastFailed, DefinitionUnsound. Without a repository nothing is declared.
    """
    from fti.contract.declared_types import require_fitting_rows

    if repo.is_dir():
        with drafted(repo) as (draft, _):
            require_fitting_rows(draft, rows)


def was_applied(repo: Path) -> bool:
    """Whether the registry of a repository has any feature service."""
    with feast_errors("feast apply", repo), tempfile.TemporaryDirectory() as folder:
        return bool(live(repo, Path(folder)).list_feature_services())


# ---- the difference, for people -------------------------------------------------------------------------------------


def _lines(diff: RegistryDiff) -> list[str]:
    """One line for each object that is added, changed or removed."""
    from feast.feature_view import DUMMY_ENTITY_NAME

    lines = []
    for found in sorted(diff.feast_object_diffs, key=lambda found: (found.feast_object_type.value, found.name)):
        old, new = found.current_feast_object, found.new_feast_object
        changes = list(_changes("", _meaning(old), _meaning(new))) if old and new else []
        kind = "added" if old is None else "removed" if new is None else "changed"
        if found.name == DUMMY_ENTITY_NAME or (kind == "changed" and not changes):
            continue
        word = f"{COLOURS[kind]}{kind:8}\033[0m" if sys.stdout.isatty() else f"{kind:8}"
        details = f": {'; '.join(changes)}" if changes else ""
        lines.append(f"{word} {found.feast_object_type.value} {found.name}{details}")
    return lines


def _meaning(found: Any) -> dict[str, Any]:
    """What a Feast object says, as plain data. Of what a feature service reads, the names: views say the rest."""
    from feast import FeatureService
    from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]

    proto = found.to_proto()
    said = MessageToDict(getattr(proto, "spec", proto), preserving_proto_field_name=True)
    if isinstance(found, FeatureService):
        views = found.feature_view_projections
        said["features"] = [f"{view.name_to_use()}.{feature.name}" for view in views for feature in view.features]
        said["reads"] = {
            view.name_to_use(): {"view": view.name, "join_keys": dict(view.join_key_map)}
            for view in views
            if view.name_alias or view.join_key_map
        }
    return said


def _changes(path: str, old: Any, new: Any) -> Iterator[str]:
    """Where two plain values differ: `path: old -> new`, and `path: +added -removed` for lists of names."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new} - NOISE):
            yield from _changes(f"{path}.{key}" if path else key, old.get(key), new.get(key))
    elif isinstance(old or new, list):
        olds, news = _by_name(old or []), _by_name(new or [])
        moved = [f"+{name}" for name in news if name not in olds] + [f"-{name}" for name in olds if name not in news]
        if moved or list(olds) != list(news):
            yield f"{path}: {' '.join(moved) or 'another order'}"
        for name in news:
            if name in olds:
                yield from _changes(f"{path}.{name}", olds[name], news[name])
    elif old != new:
        before, after = (textwrap.shorten(str(value), 60) for value in (old, new))
        yield f"{path}: {before} -> {after}" if before != after else f"{path}: changed"


def _by_name(values: list[Any]) -> dict[str, Any]:
    return {str(value["name"] if isinstance(value, dict) and "name" in value else value): value for value in values}
