"""Code in a registry that somebody else has written to: nothing of it runs before it is known to be what it was."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dill
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.repo_config import RepoConfig
from feast.types import Float64, Int64

from fti.contract.feature_contract import FeatureContract, TrainingSet
from fti.contract.feature_service import read_interface
from fti.contract.interface import ContractBroken

EVIL = "open({marker!r}, 'w').close()"
HEAD = "@on_demand_feature_view(sources=[asked], schema=[], mode='python')\n"
PLAIN = "def twice(inputs):\n    return {'doubled': [2.0 * kilos for kilos in inputs['kilos']]}\n"


def applied(folder: Path) -> FeatureStore:
    """A store with one on-demand view, in a registry file."""
    config = RepoConfig(
        project="door", provider="local", registry=str(folder / "registry.db"), entity_key_serialization_version=3,
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
    )  # fmt: skip
    store = FeatureStore(config=config)
    ship = Entity(name="ship", join_keys=["ship_id"], value_type=ValueType.STRING)
    asked = RequestSource(name="asked", schema=[Field(name="kilos", dtype=Float64)])
    views = [
        FeatureView(
            name=name, entities=[ship], ttl=timedelta(hours=1), schema=[Field(name=field, dtype=Int64)], tags=tags,
            source=FileSource(name=name, path=str(folder / f"{name}.parquet"), timestamp_field="at"),
        )
        for name, field, tags in (
            ("sailings", "line", {"prediction_anchor": "at", "prediction_lead_minutes": "0"}),
            ("outcome", "was_late", {"label": "was_late", "definition": "late"}),
        )
    ]  # fmt: skip

    @on_demand_feature_view(sources=[asked], schema=[Field(name="doubled", dtype=Float64)], mode="python")
    def twice(inputs):
        return {"doubled": [2.0 * kilos for kilos in inputs["kilos"]]}

    service = FeatureService(name="late_v1", features=[twice], tags={"spine": "sailings", "label": "outcome"})
    store.registry.apply_entity(ship, "door")
    for view in [*views, twice]:
        store.registry.apply_feature_view(view, "door")
    store.registry.apply_feature_service(service, "door")
    return store


def contract(store: FeatureStore) -> FeatureContract:
    now = datetime(2024, 1, 1, tzinfo=UTC)
    return FeatureContract(
        interface=read_interface(store, "late_v1"),
        known_values={},
        training_set=TrainingSet(as_of=now, start=now, end=now, rows=1, sha256="0", delta_versions={}),
        example_request={},
    )


@pytest.fixture
def tampered(tmp_path: Path) -> Callable[[Callable[[Any], None]], tuple[FeatureStore, FeatureContract, Path]]:
    """A store whose registry file was changed, the contract from before, and a file that evil code makes."""

    def make(change: Callable[[Any], None]) -> tuple[FeatureStore, FeatureContract, Path]:
        store = applied(tmp_path)
        before, file, registry = contract(store), tmp_path / "registry.db", Registry()
        registry.ParseFromString(file.read_bytes())
        change(registry)
        file.write_bytes(registry.SerializeToString())
        return FeatureStore(config=store.config), before, tmp_path / "marker"

    return make


def code(registry: Any) -> Any:
    return registry.on_demand_feature_views[0].spec.feature_transformation.user_defined_function


def test_a_view_as_it_was_verifies_and_other_words_in_its_decorator_too(tampered):
    """The decorator counts for nothing, as before."""

    def change(registry: Any) -> None:
        code(registry).body_text = code(registry).body_text.replace("mode=", "description='Twice (it) \"', mode=")

    store, before, _ = tampered(change)
    before.verify(store)
    assert read_interface(store, "late_v1") == before.interface


@pytest.mark.parametrize(
    "text",
    [
        "EVIL\n" + HEAD + PLAIN,
        HEAD + PLAIN + "EVIL\n",
        HEAD.rstrip() + "(EVIL)\n" + PLAIN,
        HEAD + "@(EVIL)\n" + PLAIN,
        HEAD + "@str(EVIL)\n" + PLAIN,
        "@(lambda f: EVIL)\n" + PLAIN,
        "@on_demand_feature_view[EVIL]\n" + PLAIN,
        "@on_demand_feature_view(  # :)\n    a=1)\n" + PLAIN + "EVIL\n",
        "@on_demand_feature_view(  # ' \n    EVIL)\n" + PLAIN,
        HEAD + PLAIN.replace("(inputs)", "(inputs, x=EVIL)"),
        HEAD + PLAIN.replace("(inputs)", "(inputs, *, x=EVIL)"),
        HEAD + PLAIN.replace("(inputs)", "(inputs: EVIL)"),
        HEAD + PLAIN.replace("(inputs)", "(inputs) -> list[EVIL]"),
        HEAD + PLAIN.replace("(inputs)", "(inputs) -> [EVIL for _ in (1,)]"),
        HEAD + "async " + PLAIN + "EVIL\n",
        HEAD + "class twice:\n    EVIL\n",
        "twice = lambda inputs: inputs\nEVIL\n",
        "EVIL or (\n",
        "",
    ],
)
def test_text_that_is_more_than_a_function_is_refused_before_it_is_run(tampered, text):
    """Around it, in its decorator, or in what a definition computes; with a contract and without one."""

    def change(registry: Any) -> None:
        code(registry).body_text = text.replace("EVIL", EVIL.format(marker=marker))
        code(registry).body = dill.dumps(_Evil(marker))

    marker = ""
    store, before, file = tampered(lambda _: None)
    marker = str(file)
    registry_file = Path(store.config.registry.path)
    registry = Registry()
    registry.ParseFromString(registry_file.read_bytes())
    change(registry)
    registry_file.write_bytes(registry.SerializeToString())
    store = FeatureStore(config=store.config)
    for check in (before.verify, lambda one: read_interface(one, "late_v1")):
        with pytest.raises(ContractBroken, match=r"before any of it is run|code_sha256"):
            check(store)
        assert not file.exists()


class _Evil:
    """What a pickle can do."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (open, (self.marker, "w"))


def test_a_function_that_needs_a_pickle_is_refused(tampered):
    """Its text raises when it is defined, and Feast would load the pickle that lies beside it."""

    def change(registry: Any) -> None:
        code(registry).body_text = HEAD + PLAIN.replace("(inputs)", "(inputs, inputs)")

    store, _, _ = tampered(change)
    with pytest.raises(ContractBroken, match="does not define a function"):
        read_interface(store, "late_v1")


def test_code_in_a_plain_view_is_refused(tampered):
    """A feature view that is stored holds none."""

    def change(registry: Any) -> None:
        for view in registry.feature_views:
            view.spec.feature_transformation.user_defined_function.body_text = PLAIN
        service = registry.feature_services[0].spec.features.add()
        service.feature_view_name = "sailings"

    store, before, _ = tampered(change)
    with pytest.raises(ContractBroken, match="holds code"):
        before.verify(store)


def test_annotations_that_are_types_pass(tampered):
    """Feast evaluates none of them, so any name will do; defaults that are literals pass, too."""

    def change(registry: Any) -> None:
        annotated = "(inputs: Dict[str, list[Any]] | None, x=-1, *, y=('a', None)) -> pd.DataFrame"
        code(registry).body_text = HEAD + PLAIN.replace("(inputs)", annotated)

    store, _, _ = tampered(change)
    assert read_interface(store, "late_v1").on_demand_views[0].name == "twice"
