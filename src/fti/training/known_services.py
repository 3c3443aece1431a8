"""Whether a feature service can exist, asked without importing Feast: a mistyped name should not cost a minute.

It is refused here only for sure: when `[tool.fti]` lists the feature services and this is none of them, or when its
name is nowhere in the registry's file. Feast has the last word on all others, before a run is started.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import yaml

from fti.declared import calls
from fti.errors import Refusal, few
from fti.project import project


class UnknownFeatureService(Refusal):
    """There is no feature service of that name."""


def require_service(repo: Path, name: str) -> None:
    """Refuse a feature service that surely does not exist. Raises UnknownFeatureService."""
    listed = [str(one) for one in project().settings.get("feature_services", ())] if repo == project().repo else []
    registry = _registry(repo)
    if name in listed or (not listed and (registry is None or name.encode() in registry)):
        return
    known = listed or defined(repo)
    if name in known:
        raise UnknownFeatureService(
            f"The feature service {name!r} is defined, and the registry does not have it. Run `make apply`, then the "
            "same command again. Nothing was begun."
        )
    raise unknown(name, known)


def unknown(name: str, known: list[str]) -> UnknownFeatureService:
    """The error: which there are, and the nearest of them."""
    near = difflib.get_close_matches(name, known, 1)
    return UnknownFeatureService(
        f"There is no feature service {name!r}{f'; did you mean {near[0]!r}?' if near else '.'} "
        f"Known are {few(known)}. Choose one (--feature-service), or define it and run `make apply`. Nothing was begun."
    )


def defined(repo: Path) -> list[str]:
    """The names that feature services have in a repository's modules, as far as they are plain text."""
    files = sorted(file for file in repo.rglob("*.py") if not file.name.startswith("."))
    return sorted({name for file in files for name in calls(file, "FeatureService")})


def _registry(repo: Path) -> bytes | None:
    """The bytes of the registry's file, in which every name is plain text; None of one that is elsewhere."""
    settings = Path(os.environ.get("FEAST_FS_YAML_FILE_PATH") or repo / "feature_store.yaml")
    try:
        registry = (yaml.safe_load(os.path.expandvars(settings.read_text())) or {}).get("registry")
        told = registry if isinstance(registry, dict) else {"path": registry}
        path = told.get("path")
        if told.get("registry_type", "file") != "file" or not isinstance(path, str) or "://" in path:
            return None
        return (repo / path).read_bytes()
    except (OSError, yaml.YAMLError, AttributeError):
        return None
