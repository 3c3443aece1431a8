"""A version that no service can serve is not promoted: real versions, a real feature store, the commands that move
aliases."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore, Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Float64
from mlflow import MlflowClient

from fti.contract.feature_contract import FeatureContract, TrainingSet
from fti.contract.feature_service import read_interface
from fti.contract.registered import (
    AGAINST_TAG,
    DECISION_TAG,
    DIGEST_TAG,
    FILE_NAME,
    GOLDEN_NAME,
    MODEL_DIGEST_TAG,
    REASONS_TAG,
    SERVICE_TAG,
    TRIAL_TAG,
    folder_sha256,
)
from fti.contract.task import forecast
from fti.stores.guarded import approved
from fti.training import run, trial
from fti.training.promote import CannotServe
from tests.conftest import ROOT, emptied
from tests.parcels import BIG, HOUR, NOON, PARCEL, build
from training.model import TRUSTED_TYPES, build_model

NAME = "arrival-delay"  # of training/config.yaml, which the commands read
EXAMPLE = {
    "depot_id": BIG, "zone": "NA", "weight": 1060, "fragile": True, "sent_at": "2024-05-01T13:00:00Z",
    "as_of": "2024-05-01T12:00:00Z",
}  # fmt: skip
ASKED = RequestSource(
    name="asked", schema=[Field(name=one, dtype=PARCEL[one]) for one in ("weight", "fragile", "sent_at")]
)
BOOSTER = """
from sklearn.base import BaseEstimator, ClassifierMixin


class Booster(ClassifierMixin, BaseEstimator):
    def __init__(self, share=0.5):
        self.share = share

    def fit(self, X, y):
        self.classes_ = [0, 1]
        return self

    def predict_proba(self, X):
        import numpy as np

        return np.full((len(X), 2), self.share)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parcels, applied and online."""
    repo = tmp_path_factory.mktemp("parcels") / "repo"
    repo.mkdir()
    build(repo).materialize(NOON - HOUR, NOON + HOUR, feature_views=["at_depot", "in_zone"])
    return repo


@pytest.fixture(scope="module")
def contract(built: Path) -> FeatureContract:
    rows = TrainingSet(as_of=NOON, start=NOON - HOUR, end=NOON, rows=1, sha256="0", delta_versions={})
    return FeatureContract(
        interface=read_interface(FeatureStore(repo_path=str(built)), "parcels_v1"),
        known_values={"zone": ["NA", "null"]},
        training_set=rows,
        example_request=EXAMPLE,
    )


@pytest.fixture(scope="module")
def inputs(contract: FeatureContract) -> pd.DataFrame:
    chance = np.random.default_rng(1)
    columns = {
        one.name: chance.choice(["NA", "null", "?"], 400) if one.dtype == "string" else chance.normal(size=400)
        for one in contract.interface.inputs
    }
    return contract.interface.model_inputs(pd.DataFrame(columns))


@pytest.fixture(scope="module")
def fitted(inputs: pd.DataFrame) -> Any:
    from fti.training.config import load_config

    parameters = load_config({}).model.model_copy(update={"max_iter": 5, "min_samples_leaf": 20})
    return build_model(["zone"], parameters).fit(inputs, (inputs.pace > 0).astype(int))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowClient]:
    uri = f"sqlite:///{tmp_path_factory.mktemp('registry') / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as here:
        here.setenv("MLFLOW_TRACKING_URI", uri)
        mlflow.set_tracking_uri(uri)
        client = MlflowClient(uri)
        client.create_registered_model(NAME)
        yield client
        mlflow.set_tracking_uri(None)


@pytest.fixture
def register(registry, contract, inputs, fitted, tmp_path) -> Callable[..., str]:
    """Register a version that has passed every rule as the challenger; returns its number."""

    def registered(
        contract: FeatureContract = contract, model: Any = fitted, trusted: list[str] = TRUSTED_TYPES, off: float = 0
    ) -> str:
        task, golden = contract.interface.task, inputs.head(5)
        said = (forecast(model, golden, task) + off).tolist()
        rows = golden.astype(object).where(golden.notna(), None).to_dict("records")
        folder, extra = tmp_path / f"model-{len(list(tmp_path.iterdir()))}", tmp_path / "extra"
        extra.mkdir(exist_ok=True)
        (extra / FILE_NAME).write_text(contract.canonical())
        (extra / GOLDEN_NAME).write_text(json.dumps({"inputs": rows, "probabilities": said}))
        mlflow.sklearn.save_model(
            model, str(folder), serialization_format="skops", skops_trusted_types=trusted, pip_requirements=[],
            extra_files=[str(extra / FILE_NAME), str(extra / GOLDEN_NAME)],
        )  # fmt: skip
        champion = aliases(registry).get("champion", "none")
        tags = {
            SERVICE_TAG: contract.interface.feature_service, DIGEST_TAG: contract.sha256,
            MODEL_DIGEST_TAG: folder_sha256(folder), DECISION_TAG: "passed", AGAINST_TAG: champion,
            REASONS_TAG: "every rule passed",
        }  # fmt: skip
        run_id = registry.create_run("0").info.run_id
        version = registry.create_model_version(NAME, source=str(folder), run_id=run_id, tags=tags)
        registry.set_registered_model_alias(NAME, "challenger", version.version)
        return str(version.version)

    return registered


@pytest.fixture
def command(built, registry, monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Call the training command line over a repository: exit code, output and the lines that say an error."""

    def called(*words: str, repo: Path = built) -> tuple[int, str, str]:
        monkeypatch.setenv("TRAINING_FEAST_REPO", str(repo))
        capsys.readouterr()
        code = run.main(list(words))
        said = capsys.readouterr()
        return code, said.out, "\n".join(line for line in said.err.splitlines() if line.startswith("error:"))

    return called


@pytest.fixture
def champion(register, command, registry) -> str:
    """A healthy version that is served, and one before it."""
    for alias in ("champion", "previous", "challenger"):
        registry.delete_registered_model_alias(NAME, alias)
    for _ in range(2):
        number = register()
        assert command("promote")[0] == 0
    return number


@pytest.fixture
def changed(built: Path, tmp_path: Path) -> Path:
    """A copy of the repository, for a test to change."""
    shutil.copytree(built, tmp_path / "changed")
    return tmp_path / "changed"


def aliases(client: MlflowClient) -> dict[str, str]:
    return {alias: str(number) for alias, number in client.get_registered_model(NAME).aliases.items()}


def tags(client: MlflowClient, version: str) -> dict[str, str]:
    return client.get_model_version(NAME, version).tags


def refused(command: Any, client: MlflowClient, version: str, said: str, repo: Path | None = None) -> None:
    """The promotion of a version is refused in one line, no alias moves, and the version is tagged with the reason."""
    before = aliases(client)
    code, out, error = command("promote", **({"repo": repo} if repo else {}))
    assert (code, out) == (1, "")
    assert error.startswith(f"error: No service can serve version {version}: ")
    assert "\n" not in error
    assert said in error
    assert aliases(client) == before
    found = tags(client, version)
    assert (found[DECISION_TAG], found[TRIAL_TAG]) == ("failed", "failed")
    assert said in found[REASONS_TAG]


def test_a_version_that_can_be_served_is_promoted_and_its_trial_is_recorded(registry, champion, register, command):
    """By the command, with nothing left untried."""
    version = register()
    code, said, _ = command("promote")
    assert (code, said) == (
        0, f"{NAME}: version {version} is the champion; before it was version {champion}, now 'previous'.\n"
    )  # fmt: skip
    assert tags(registry, version)[TRIAL_TAG] == "passed"


def test_it_is_tried_by_what_the_service_answers_with():
    """The very functions: what loads a version, reads its features, checks a request, scores and writes the answer."""
    from fti.scoring import loading, served_model
    from fti.serving.http import api, middleware, openapi
    from fti.serving.model import predictor, scorer

    assert predictor.load is loading.load
    assert loading.load.__globals__["load_on"] is loading.load_on is trial.load_on
    assert api.ServedModel is scorer.ServedModel is served_model.ServedModel is trial.ServedModel
    assert openapi.answer_of is trial.answer_of
    assert middleware.encode is trial.encode


def test_training_alone_can_try_a_version():
    """What is tried by needs nothing that only the service installs."""
    found = "import sys, fti.training.trial; print(*{'bentoml', 'opentelemetry.exporter'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", found], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_an_example_that_its_own_schema_refuses(registry, champion, register, command, contract):
    """A whole number that became 1060.0 on its way through a column with gaps."""
    version = register(contract.model_copy(update={"example_request": EXAMPLE | {"weight": 1060.0}}))
    refused(command, registry, version, "refuses its own example request (weight: Input should be a valid integer")


def test_code_that_is_not_that_of_the_live_registry(registry, champion, register, command, changed):
    """Somebody applied other on-demand code since the version was trained; put back, the same version is promoted."""
    store, opened_before = (FeatureStore(repo_path=str(changed)) for _ in range(2))
    assert opened_before.get_feature_service("parcels_v1")

    @on_demand_feature_view(
        sources=[store.get_feature_view("at_depot")[["pace"]], ASKED],
        schema=[Field(name="effort", dtype=Float64), Field(name="care", dtype=Bool)],
        mode="python",
    )
    def effort(inputs):
        return {"effort": [0.0 for _ in inputs["pace"]], "care": inputs["fragile"]}

    with approved():  # as whoever applies from where this model registry is not known
        store.apply([effort])
    version = register()
    said = "'parcels_v1' has changed since the model was trained: on_demand_views.effort.code_sha256: recorded"
    with pytest.raises(CannotServe, match="code_sha256"):
        trial.try_version(opened_before, registry.get_model_version(NAME, version), None)
    refused(command, registry, version, said, changed)
    assert command("promote")[0] == 0
    assert aliases(registry)["champion"] == version
    assert (tags(registry, version)[DECISION_TAG], tags(registry, version)[TRIAL_TAG]) == ("passed", "passed")
    assert tags(registry, version)[REASONS_TAG] == "every rule passed"


def test_golden_rows_that_do_not_come_out(registry, champion, register, command):
    """As with other packages than those it was trained with."""
    version = register(off=0.01)
    refused(command, registry, version, "does not predict here what it did in training: 5 golden rows")
    card = registry.get_model_version(NAME, version).description
    assert "**failed**" in card
    assert "5 golden rows differ" in card


def test_a_feature_service_that_was_deleted(registry, champion, register, command, changed):
    """By somebody else, while it was trained."""
    FeatureStore(repo_path=str(changed)).delete_feature_service("parcels_v1")
    refused(command, registry, register(), "is not in the Feast registry", changed)


@pytest.fixture
def boosters(tmp_path: Path) -> Iterator[Any]:
    """A library that is installed for as long as a test wants it."""
    library = tmp_path / "library" / "boosters_of_2031.py"
    library.parent.mkdir()
    library.write_text(BOOSTER)
    with pytest.MonkeyPatch.context() as here:
        here.syspath_prepend(str(library.parent))
        import boosters_of_2031  # type: ignore[import-not-found]

        yield boosters_of_2031
    sys.modules.pop("boosters_of_2031", None)


def test_a_library_that_is_not_installed(registry, champion, register, command, boosters, monkeypatch):
    """The line names the package."""
    version = register(model=boosters.Booster().fit(None, None), trusted=["boosters_of_2031.Booster"])
    monkeypatch.setattr(sys, "path", [one for one in sys.path if not one.endswith("library")])
    monkeypatch.delitem(sys.modules, "boosters_of_2031")
    refused(command, registry, version, "needs the package 'boosters_of_2031', which is not installed here")


def test_a_forecast_that_is_no_probability(registry, champion, register, command, boosters):
    """Its golden rows come out as in training."""
    version = register(model=boosters.Booster(share=1.5).fit(None, None), trusted=["boosters_of_2031.Booster"])
    refused(command, registry, version, "its example request gives 1.5, which is no probability")


def test_files_that_were_changed(registry, champion, register, command):
    """Nothing of them is loaded."""
    version = register()
    folder = Path(registry.get_model_version(NAME, version).source)
    (folder / "requirements.txt").write_text("numpy\n")
    refused(command, registry, version, "the model was changed since")


def test_code_that_fails_for_the_example(registry, champion, register, command, changed, contract):
    """The service would load it, and answer nothing."""
    store = FeatureStore(repo_path=str(changed))

    @on_demand_feature_view(
        sources=[store.get_feature_view("at_depot")[["pace"]], ASKED],
        schema=[Field(name="effort", dtype=Float64), Field(name="care", dtype=Bool)],
        mode="python",
    )
    def effort(inputs):
        return {"effort": [1.0 / (weight - 1060) for weight in inputs["weight"]], "care": inputs["fragile"]}

    with approved():  # as whoever applies from where this model registry is not known
        store.apply([effort])
    live = contract.model_copy(update={"interface": read_interface(store, "parcels_v1")})
    refused(command, registry, register(live), "its example request is not answered: effort: its code fails", changed)


def test_in_dry_run_it_is_tried_too(registry, champion, register, command):
    """What could not be promoted is not said to be promotable."""
    register(off=0.01)
    code, said, error = command("promote", "--mode", "dry_run")
    assert (code, said) == (1, "")
    assert "golden rows" in error


def test_disabled_tries_nothing(registry, champion, register, command):
    """As it asks for no judgement."""
    version = register(off=0.01)
    assert command("promote", "--mode", "disabled")[0] == 0
    assert aliases(registry)["champion"] == version


def test_an_empty_online_store_keeps_no_first_version_back(registry, champion, register, command, changed):
    """Trained before anything is materialized, or for batches alone: what was not tried is said and recorded."""
    registry.delete_registered_model_alias(NAME, "champion")
    version = register()
    with emptied(changed / "online.db"):
        code, said, _ = command("promote", repo=changed)
    assert code == 0
    assert aliases(registry)["champion"] == version
    assert "Not tried: reading features online. The online store has no row of any view" in said
    assert tags(registry, version)[TRIAL_TAG].startswith("passed; not tried: reading features online.")


def test_an_online_store_that_cannot_be_read_keeps_no_version_back(registry, champion, register, command, changed):
    """Neither version is answered from it: that is no fault of the new one."""
    (changed / "online.db").unlink()
    (changed / "online.db").mkdir()
    version = register()
    code, said, _ = command("promote", repo=changed)
    assert code == 0
    assert "Not tried: reading features online. The online store cannot be read" in said
    assert aliases(registry)["champion"] == version


def test_a_version_lacks_what_the_champion_has(registry, champion, register, command, contract):
    """Its example finds nothing in a store from which the service can load the champion: it would refuse this one."""
    nowhere = EXAMPLE | {"depot_id": 4, "zone": None}
    version = register(contract.model_copy(update={"example_request": nowhere}))
    refused(command, registry, version, "the service can load the champion from the online store as it is, and")


def test_a_store_that_has_moved_on_is_asked_later(registry, champion, register, command, contract):
    """A version that was trained as of an earlier moment than what is online is tried on what is there."""
    earlier = EXAMPLE | {"as_of": (NOON - timedelta(days=30)).isoformat()}
    version = register(contract.model_copy(update={"example_request": earlier}))
    assert command("promote")[0] == 0
    assert tags(registry, version)[TRIAL_TAG] == "passed"


def test_views_without_a_row_for_the_example_are_named(registry, champion, register, command, contract):
    """It is promoted: the model takes nulls there, and the record says that it was tried with them."""
    register(contract.model_copy(update={"example_request": EXAMPLE | {"depot_id": 4}}))
    code, said, _ = command("promote")
    assert code == 0
    assert "Not tried: features of at_depot, of which the online store has no row of use for its example" in said


def test_a_rollback_to_what_cannot_be_served_is_refused_unless_it_is_forced(
    registry, champion, register, command, changed
):
    """The champion stays, and `mode=disabled` goes back all the same."""
    FeatureStore(repo_path=str(changed)).delete_feature_service("parcels_v1")
    before = aliases(registry)
    code, said, error = command("rollback", repo=changed)
    assert (code, said) == (1, "")
    assert error.startswith(f"error: No service can serve version {before['previous']}: Feature service 'parcels_v1'")
    assert "-P mode=disabled" in error
    assert aliases(registry) == before
    assert tags(registry, before["previous"])[DECISION_TAG] == "passed"
    assert command("rollback", "--mode", "disabled", repo=changed)[0] == 0
    assert aliases(registry) == {"champion": before["previous"], "previous": before["champion"]}
    assert command("rollback")[0] == 0
    assert aliases(registry) == before
