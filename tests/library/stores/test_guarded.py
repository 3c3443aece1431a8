"""Feast's own ways to write definitions, over a registry file and over an SQL registry, with a champion registered."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from feast import FeatureService, FeatureStore, FeatureView

from fti.contract.applying import DefinitionNeeded
from fti.contract.definitions import DefinitionUnsound
from fti.stores.guarded import DEFINED, _meaning
from tests import ships

CONFIGS = {"file": ships.CONFIG, "sql": ships.SQL_CONFIG}
SHORTER = ships.DEFINITIONS.replace("timedelta(days=9)", "timedelta(days=8)")
SECOND = ships.DEFINITIONS + (
    '\nlate_v2 = FeatureService(name="late_v2", features=[history, depth, load, clock], tags=late_v1.tags)\n'
)
NEEDED = "lateness version 1 (champion) needs what these definitions change."


@pytest.fixture(scope="module", params=CONFIGS)
def repo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A built repository with a champion in mlflow.db beside it, where the guard looks for it by itself."""
    built = ships.build(tmp_path_factory.mktemp(request.param), CONFIGS[request.param])
    with pytest.MonkeyPatch.context() as here:
        here.delenv("MLFLOW_TRACKING_URI", raising=False)
        ships.register(built)
        yield built


@pytest.fixture
def store(repo: Path) -> FeatureStore:
    return FeatureStore(repo_path=str(repo))


def state(repo: Path) -> Any:
    """What the registry defines, and what is online."""
    store = FeatureStore(repo_path=str(repo))
    service = store.get_feature_service("late_v1")
    row = {"ship": "ant", "port": "Oslo", "sails_at": ships.NOON, "sailing_hour": int(ships.NOON.timestamp()) // 3600}
    registry = store.registry.proto()
    defined = {kind: sorted(str(_meaning(one)) for one in getattr(registry, kind)) for kind in DEFINED}
    return defined, store.get_online_features(service, [row]).to_dict()


def changed(store: FeatureStore) -> FeatureView:
    view = store.get_feature_view("ship_history")
    view.ttl = timedelta(days=8)
    return view


def other(store: FeatureStore, **tags: str) -> FeatureService:
    service = store.get_feature_service("late_v1")
    views = [store.get_feature_view(name) for name in ("ship_history", "port_depth", "hour_load")]
    features = [*views, store.get_on_demand_feature_view("clock")]
    return FeatureService(name="late_v3", features=features, tags=service.tags | tags)


WRITES = {
    "apply": lambda store: store.apply([changed(store)]),
    "apply of all": lambda store: store.apply([changed(store)], objects_to_delete=[], partial=False),
    "deletion by apply": lambda store: store.apply(
        [], objects_to_delete=[store.get_feature_view("port_depth")], partial=False
    ),
    "delete_feature_view": lambda store: store.delete_feature_view("port_depth"),
    "delete_feature_service": lambda store: store.delete_feature_service("late_v1"),
    "disable_feature_view": lambda store: store.disable_feature_view("port_depth"),
    "registry": lambda store: store.registry.apply_feature_view(changed(store), store.project),
    "deletion of an entity": lambda store: store.registry.delete_entity("hour", store.project),
    "teardown": lambda store: store.teardown(),
}


@pytest.mark.parametrize("write", WRITES)
def test_what_a_champion_needs_is_not_changed_by_any_way_that_feast_has(repo, store, write):
    """Refused in one line that names the version, before the registry or an online table is touched."""
    before = state(repo)
    with pytest.raises((DefinitionNeeded, DefinitionUnsound)) as refusal:
        WRITES[write](store)
    assert NEEDED in str(refusal.value) or "'port_depth' has enabled=False" in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1
    assert state(repo) == before


def test_an_unsound_definition_is_refused(repo, store):
    """A label that is no feature view: no model could be trained."""
    before = state(repo)
    with pytest.raises(DefinitionUnsound, match="label='nothing'"):
        store.apply([other(store, label="nothing")])
    assert state(repo) == before


def test_what_is_allowed_is_written(repo, store):
    """A new service beside the old, and its end."""
    before = state(repo)
    store.apply([other(store)])
    assert FeatureStore(repo_path=str(repo)).get_feature_service("late_v3").name == "late_v3"
    store.delete_feature_service("late_v3")
    assert state(repo) == before


def test_a_refused_store_goes_on(repo):
    """What was refused is nowhere in it."""
    store = FeatureStore(repo_path=str(repo))
    with pytest.raises(DefinitionNeeded):
        store.registry.apply_feature_view(changed(store), store.project)
    store.refresh_registry()
    assert store.get_feature_view("ship_history").ttl == timedelta(days=9)
    store.apply([other(store)])
    store.delete_feature_service("late_v3")
    assert store.get_feature_view("ship_history").ttl == timedelta(days=9)


def test_a_materialization_asks_nobody(store, monkeypatch):
    """It writes how far each view is, and no definition."""
    applying = importlib.import_module("fti.contract.applying")
    monkeypatch.setattr(applying, "require_allowed", lambda *_: pytest.fail("asked"))
    store.materialize(ships.NOON - timedelta(days=9), ships.NOON)


def test_this_librarys_apply_asks_once(repo, monkeypatch):
    """Its own check is the guard's; Feast's part does not ask again."""
    from fti.features import guard, run

    asked = []
    applying = importlib.import_module("fti.contract.applying")
    real = applying.require_allowed

    def counted(*arguments: Any, **options: Any) -> None:
        asked.append(1)
        real(*arguments, **options)

    monkeypatch.setattr(applying, "require_allowed", counted)
    monkeypatch.setattr(guard, "require_allowed", counted)
    ships.write(repo, config=(repo / "feature_store.yaml").read_text())
    assert run.main(["apply", "--repo", str(repo)]) == 0
    assert asked == [1]


def feast(repo: Path, *command: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("feast")
    return subprocess.run(
        [str(program), "-c", str(repo), *command], capture_output=True, text=True, timeout=120, check=False
    )


def test_the_command_feast_apply_refuses_in_one_line_and_applies_what_is_allowed(repo):
    """Real processes: exit code 1 and no traceback, nothing changed; then the same definitions beside a new service."""
    before, config = state(repo), (repo / "feature_store.yaml").read_text()
    refused = feast(ships.write(repo, SHORTER, config), "apply")
    assert refused.returncode == 1
    (line,) = [line for line in refused.stderr.splitlines() if NEEDED in line]
    assert line.startswith("error: ")
    assert "Traceback" not in refused.stderr
    assert state(repo) == before
    allowed = feast(ships.write(repo, SECOND, config), "apply")
    assert allowed.returncode == 0, allowed.stderr
    assert FeatureStore(repo_path=str(repo)).get_feature_service("late_v2").name == "late_v2"


def test_a_reader_loads_no_mlflow(repo):
    """Neither does the feature server: the guard is imported once something is about to be written."""
    code = f"""
import sys
from feast import FeatureStore
from feast.feature_server import get_app
store = FeatureStore(repo_path={str(repo)!r})
service = store.get_feature_service("late_v1")
row = {{"ship": "ant", "port": None, "sails_at": "2024-05-01T12:00:00Z", "sailing_hour": 1}}
assert store.get_online_features(service, [row]).to_df()["sails_hour"].tolist() == [12.0]
get_app(store)
assert "fti.stores.guarded" in sys.modules
print([name for name in ("mlflow", "fti.contract.applying", "fti.contract") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout.splitlines() or [done.stderr])[-1] == "[]"
