"""The guard over small real repositories: what a plan says, and which changes a registered model forbids."""

from __future__ import annotations

import shutil
from contextlib import chdir
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
from feast import FeatureStore

from fti.contract.applying import DefinitionNeeded, RegistryUnreadable
from fti.contract.feature_contract import FeatureContract, TrainingSet
from fti.contract.feature_service import read_interface
from fti.contract.interface import ContractBroken
from fti.contract.registered import (
    DIGEST_TAG,
    FILE_NAME,
    MODEL_DIGEST_TAG,
    PROJECT_TAG,
    SERVICE_TAG,
    fetch_version,
    folder_sha256,
)
from fti.features.feast_steps import FeastFailed, apply
from fti.features.guard import check, plan
from fti.features.readers import NoDefinition, needs

ROOT = Path(__file__).resolve().parents[3]
CONFIG = """
project: guarded
provider: local
registry: ../data/registry.db
offline_store:
  type: file
online_store:
  type: sqlite
  path: ../data/online.db
entity_key_serialization_version: 3
"""
DEFINITIONS = """
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, UnixTimestamp

ship = Entity(name="ship", join_keys=["ship_id"], value_type=ValueType.STRING, description="A ship.")


def source(name):
    return FileSource(
        name=f"{name}_source", path=f"../data/{name}.parquet", timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )


spine = FeatureView(
    name="sailings", entities=[ship], source=source("sailings"),
    schema=[Field(name="berth", dtype=Int64), Field(name="sails_at", dtype=UnixTimestamp)],
    online=False, tags={"prediction_anchor": "sails_at", "prediction_lead_minutes": "120"},
)
outcome = FeatureView(
    name="sailing_outcome", entities=[ship], schema=[Field(name="was_late", dtype=Int64)], source=source("outcome"),
    online=False, tags={"label": "was_late", "definition": "15 or more minutes late"},
)
speed = FeatureView(
    name="ship_speed", entities=[ship], ttl=timedelta(hours=1), source=source("speed"),
    schema=[Field(name="ship_mean_speed_1h", dtype=Float64), Field(name="ship_mean_speed_3h", dtype=Float64)],
)


@on_demand_feature_view(sources=[speed], schema=[Field(name="ship_speed_knots", dtype=Float64)], mode="python")
def ship_knots(inputs):
    return {"ship_speed_knots": [speed and speed * 1.852 for speed in inputs["ship_mean_speed_1h"]]}


late_v1 = FeatureService(
    name="late_v1", features=[speed, ship_knots], tags={"spine": "sailings", "label": "sailing_outcome"}
)
"""
HOUR, DAY = "timedelta(hours=1)", "timedelta(days=1)"
THREE = ', Field(name="ship_mean_speed_3h", dtype=Float64)'


@pytest.fixture(autouse=True)
def _no_registry_named(monkeypatch):
    """The registry is mlflow.db beside the repository, unless a test says otherwise."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def write(repo: Path, definitions: str = DEFINITIONS) -> Path:
    """Make `repo` say this. Compiled files go: an edit within one second of the last would not be seen."""
    repo.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(repo / "__pycache__", ignore_errors=True)
    (repo / "feature_store.yaml").write_text(CONFIG)
    (repo / "definitions.py").write_text(definitions)
    return repo


def applied(repo: Path) -> Path:
    """A repository that Feast has applied, as `make apply` does; Feast stays in its folder."""
    with chdir(ROOT):
        apply(write(repo))
    return repo


def described(repo: Path) -> FeatureContract:
    """What a model of the service `late_v1` would record."""
    now = datetime(2013, 10, 1, tzinfo=UTC)
    return FeatureContract(
        interface=read_interface(FeatureStore(repo_path=str(repo)), "late_v1"),
        known_values={},
        training_set=TrainingSet(as_of=now, start=now, end=now, rows=1, sha256="0", delta_versions={}),
        example_request={"ship_id": "Ever Given"},
    )


def register(repo: Path, alias: str | None = "champion", digest: str | None = None) -> None:
    """Register a version with a contract, and nothing else that a model has, in mlflow.db beside `repo`."""
    from mlflow import MlflowClient

    contract = described(repo)
    folder = repo.parent / "model"
    (folder / "extra_files").mkdir(parents=True, exist_ok=True)
    (folder / "extra_files" / FILE_NAME).write_text(contract.canonical())
    client = MlflowClient(tracking_uri=f"sqlite:///{repo.parent / 'mlflow.db'}")
    client.create_registered_model("lateness")
    tags = {SERVICE_TAG: "late_v1", DIGEST_TAG: digest or contract.sha256, MODEL_DIGEST_TAG: folder_sha256(folder)}
    version = client.create_model_version("lateness", source=str(folder), tags=tags)
    if alias:
        client.set_registered_model_alias("lateness", alias, version.version)


@pytest.fixture(scope="module")
def registered(tmp_path_factory) -> Path:
    """An applied repository, and a registry with one version under the alias `previous`."""
    repo = applied(tmp_path_factory.mktemp("registered") / "repo")
    register(repo, "previous")
    return repo


# ---- the plan -------------------------------------------------------------------------------------------------------


def test_a_plan_of_applied_definitions_has_no_changes(registered):
    """Times of creation and the like are no changes."""
    assert plan(write(registered)) == "No changes: the registry says what the definitions say."


def test_what_a_definition_is_needed_by_is_said(registered):
    """A view and a service, by model versions with their aliases; what nobody reads may go."""
    for name in ("ship_speed", "late_v1", "sailings"):
        assert "model lateness version 1 (previous)" in needs(registered, name)
    assert "feature service `late_v1`" in needs(registered, "ship_speed")
    with pytest.raises(NoDefinition, match=r"late_v1.*ship_speed"):
        needs(registered, "nothing_of_the_kind")


@pytest.mark.parametrize("service", ["late_v2", None])
def test_a_version_whose_tag_names_another_service_is_refused(registered, service):
    """The tag is what plans, people and retraining go by; the contract is what is served."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{registered.parent / 'mlflow.db'}")
    version = client.get_model_version("lateness", "1")
    assert fetch_version(version)[1].interface.feature_service == "late_v1"
    version.tags.pop(SERVICE_TAG)
    version.tags.update({SERVICE_TAG: service} if service else {})
    with pytest.raises(ContractBroken, match=r"the tag feast\.feature_service .*reads 'late_v1'"):
        fetch_version(version)


def test_a_plan_names_each_object_and_what_changes_in_it(registered):
    """A line an object, old and new value of what changed, and no colour where there is no terminal."""
    reads = "sources.ship_speed.feature_view_projection.feature_columns"
    changed = DEFINITIONS.replace(HOUR, DAY).replace(THREE, "").replace('name="late_v1"', 'name="late_v2"')
    assert plan(write(registered, changed)).splitlines() == [
        "removed  feature service late_v1",
        "added    feature service late_v2",
        "changed  feature view ship_speed: features: -ship_mean_speed_3h; ttl: 3600s -> 86400s",
        f"changed  on demand feature view ship_knots: {reads}: -ship_mean_speed_3h",
    ]


def test_a_plan_tells_of_changed_code(registered):
    """Its text is too long for the line."""
    (line,) = plan(write(registered, DEFINITIONS.replace("1.852", "1.853"))).splitlines()
    assert line.startswith("changed  on demand feature view ship_knots: ")
    assert line.endswith("body_text: changed")


def test_a_plan_tells_of_other_keys_and_names_that_a_service_reads_a_view_by(registered):
    """Its features are the same, and are found by another key."""
    mapped = 'speed.with_name("tug_speed").with_join_key_map({"ship_id": "berth"})'
    (line,) = plan(write(registered, DEFINITIONS.replace("[speed, ship", f"[{mapped}, ship"))).splitlines()
    assert line.startswith("changed  feature service late_v1: features: +tug_speed.")
    assert "reads.tug_speed: None -> {'view': 'ship_speed', 'join_keys': {'ship_id': 'berth'}}" in line


def test_a_plan_changes_nothing(registered, tmp_path):
    """Neither the live registry, nor the caller's folder and imports; nor does it make a registry that is not there."""
    registry = registered.parent / "data" / "registry.db"
    before, folder = registry.read_bytes(), Path.cwd()
    plan(write(registered, DEFINITIONS.replace(HOUR, DAY)))
    assert (registry.read_bytes(), Path.cwd()) == (before, folder)
    fresh = write(tmp_path / "repo")
    assert "added    feature view ship_speed" in plan(fresh).splitlines()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repo"]


def test_two_plans_in_one_process_read_the_definitions_anew(registered):
    """An edit between them is seen, although Python has imported that module."""
    assert "ship_speed" not in plan(write(registered))
    assert "ship_speed" in plan(write(registered, DEFINITIONS.replace(HOUR, DAY)))


def test_broken_definitions_are_named(tmp_path):
    """File and line of the definition, as from an apply."""
    with pytest.raises(FeastFailed, match=r"definitions\.py"):
        plan(write(tmp_path / "repo", DEFINITIONS + "\nraise ValueError('half written')\n"))


# ---- the check ------------------------------------------------------------------------------------------------------


def test_unchanged_definitions_pass(registered):
    """What the model was trained on is what would be applied."""
    check(write(registered))


def test_other_words_for_what_code_computes_pass(registered):
    """The description of an on-demand view is in the same text as its code, and computes nothing."""
    mode = 'mode="python"'
    check(write(registered, DEFINITIONS.replace(mode, f'{mode}, description="In knots.", tags={{"a": "b"}}')))


def test_a_contract_from_when_the_decorator_counted_still_holds(registered):
    """Its hash is of the whole text, which is what this code had then; of other code it is refused."""
    store = FeatureStore(repo_path=str(registered))
    whole = store.get_on_demand_feature_view("ship_knots").feature_transformation.udf_string
    contract = described(registered)
    (view,) = contract.interface.on_demand_views

    def with_hash_of(text: str) -> FeatureContract:
        other = view.model_copy(update={"code_sha256": sha256(text.encode()).hexdigest()})
        interface = contract.interface.model_copy(update={"on_demand_views": [other]})
        return contract.model_copy(update={"interface": interface})

    before = with_hash_of(whole)
    assert before != contract
    before.verify(store)
    with pytest.raises(ContractBroken, match=r"ship_knots\.code_sha256"):
        with_hash_of(whole.replace("1.852", "1.853")).verify(store)


def test_a_new_service_beside_the_old_passes(registered):
    """That is how a change is made."""
    check(
        write(
            registered,
            f'{DEFINITIONS}\nlate_v2 = FeatureService(name="late_v2", features=[speed], tags=late_v1.tags)\n',
        )
    )


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (HOUR, DAY, "ttl_seconds: recorded 3600, now 86400"),
        (THREE, "", "ship_mean_speed_3h"),
        ("1.852", "1.853", "on_demand_views.ship_knots.code_sha256"),
        ('"ship_mean_speed_1h", dtype=Float64', '"ship_mean_speed_1h", dtype=Int64', "recorded 'double', now 'int64'"),
        ('name="late_v1"', 'name="late_v2"', "'late_v1' of the contract is not in the Feast registry"),
        ('"label": "was_late", ', "", "can no longer be described (KeyError('label'))"),
    ],
)
def test_a_change_to_what_a_version_reads_is_refused(registered, old, new, told):
    """Whatever its alias; the refusal names version, alias and service, what changed, and how to mend it."""
    with pytest.raises(DefinitionNeeded) as refusal:
        check(write(registered, DEFINITIONS.replace(old, new)))
    for part in ("lateness version 1 (previous)", "late_v1", told, "definition", "alias"):
        assert part in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


def test_a_model_of_another_project_on_the_server_needs_nothing_here(tmp_path):
    """By the tag of its registered model; one that says this project, or nothing, is protected, and its name said."""
    from mlflow import MlflowClient

    repo = applied(tmp_path / "repo")
    register(repo)
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    changed = write(repo, DEFINITIONS.replace(HOUR, DAY))
    client.set_registered_model_tag("lateness", PROJECT_TAG, "another")
    check(changed)
    client.set_registered_model_tag("lateness", PROJECT_TAG, FeatureStore(repo_path=str(repo)).project)
    with pytest.raises(DefinitionNeeded, match=r"lateness version 1 .*, too, give one of them another name"):
        check(changed)


def test_a_version_without_an_alias_needs_nothing(tmp_path):
    """Nobody will serve it."""
    repo = applied(tmp_path / "repo")
    register(repo, alias=None)
    check(write(repo, DEFINITIONS.replace(HOUR, DAY)))


def test_no_registry_means_nothing_to_protect(tmp_path, caplog):
    """A fresh clone says so in a line, and no registry appears by asking."""
    caplog.set_level("INFO")
    check(write(tmp_path / "repo"))
    assert "no model needs a definition yet" in caplog.text
    assert not (tmp_path / "mlflow.db").exists()


def test_a_registry_that_cannot_be_read_refuses(tmp_path, monkeypatch):
    """A damaged file, and a server that does not answer: nobody knows what its models need."""
    repo = write(tmp_path / "repo")
    (tmp_path / "mlflow.db").write_text("This is no database, and long enough that SQLite notices." * 100)
    with pytest.raises(RegistryUnreadable, match=r"mlflow\.db"):
        check(repo)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryUnreadable, match=r"127\.0\.0\.1:9"):
        check(repo)


def test_a_registry_that_is_named_and_not_there_refuses_once_definitions_are_applied(tmp_path, monkeypatch):
    """Mistyped, the variable would let every change pass; before the first apply there is nothing to change."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflwo.db'}?timeout=30")
    check(write(tmp_path / "repo"))
    repo = applied(tmp_path / "repo")
    with pytest.raises(RegistryUnreadable, match=r"there is no .*mlflwo\.db,"):
        check(repo)
    assert not (tmp_path / "mlflwo.db").exists()


def test_a_registry_named_with_options_is_read(registered, monkeypatch):
    """What follows the file's name in its address is no part of the name."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{registered.parent / 'mlflow.db'}?timeout=30")
    with pytest.raises(DefinitionNeeded, match="lateness version 1"):
        check(write(registered, DEFINITIONS.replace(HOUR, DAY)))


def test_a_contract_that_was_tampered_with_refuses(tmp_path):
    """It cannot say any more what its version needs."""
    repo = applied(tmp_path / "repo")
    register(repo, digest="0" * 64)
    with pytest.raises(ContractBroken, match=r"lateness version 1 .* it was changed since"):
        check(repo)


def test_the_projects_own_definitions_keep_what_its_own_models_need():
    """On a developer's machine, a breaking change is refused before anybody applies it."""
    if not (ROOT / "mlflow.db").exists():
        pytest.skip("no model is registered here")
    check(ROOT / "feature_repo")
