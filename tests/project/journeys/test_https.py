"""The service over https, by BentoML's own options: for programs that trust its authority, and in a browser."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import trustme

from tests.conftest import copy_registry
from tests.project.journeys.test_page import Watched, answered
from tests.project.journeys.test_page import chrome as chrome  # noqa: PLC0414 - a fixture
from tests.project.journeys.test_page import chromium as chromium  # noqa: PLC0414 - a fixture
from tests.project.journeys.test_serving import free_port, launch, until

FLIGHT = {
    "as_of": "2013-10-01T00:00:00Z", "carrier": "DL", "origin": "LGA", "dest": "ATL",
    "scheduled_departure": "2013-10-01T12:00:00Z", "scheduled_arrival": "2013-10-01T14:30:00Z",
}  # fmt: skip


@dataclass(frozen=True)
class Secure:
    """A service, and the file of authorities that vouch for it as `localhost`."""

    port: int
    known: str

    @property
    def origin(self) -> str:
        return f"https://localhost:{self.port}"

    def get(self, path: str) -> requests.Response:
        return requests.get(f"{self.origin}{path}", verify=self.known, timeout=30)


@pytest.fixture(scope="module")
def secure(trained, tmp_path_factory) -> Iterator[Secure]:
    root, port, authority = tmp_path_factory.mktemp("secure"), free_port(), trustme.CA()
    copy_registry(trained, root)
    shutil.copytree(trained.repo, root / "feature_repo", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(trained.root / "data" / "feast", root / "data" / "feast")
    authority.cert_pem.write_to_path(str(root / "ca.pem"))
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(str(root / "service.pem"))
    certificate.private_key_pem.write_to_path(str(root / "service.key"))
    command = [
        str(Path(sys.executable).with_name("bentoml")), "serve", "serving.service:PredictionService",
        "--ssl-certfile", str(root / "service.pem"), "--ssl-keyfile", str(root / "service.key"),
    ]  # fmt: skip
    process = launch(command, port, root, root / "log", {})
    try:
        made = Secure(port, str(root / "ca.pem"))
        until(lambda: made.get("/readyz").status_code == 200)
        yield made
    finally:
        process.terminate()
        process.wait(60)


def test_it_answers_those_who_trust_its_authority(secure):
    response = requests.post(f"{secure.origin}/predict", json=FLIGHT, verify=secure.known, timeout=30)
    assert response.status_code == 200
    assert 0 < response.json()["probability"] < 1
    assert "fti_predictions_total 1.0" in secure.get("/metrics").text


def test_nobody_who_knows_better_takes_it_for_another(secure, tmp_path):
    """Its authority is not known, it was reached by another name, or in clear text."""
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "strangers.pem"))
    for address, trusts in ((secure.origin, str(tmp_path / "strangers.pem")), (secure.origin, True),
                            (f"https://127.0.0.1:{secure.port}", secure.known)):  # fmt: skip
        with pytest.raises(requests.exceptions.SSLError, match=r"CERTIFICATE_VERIFY_FAILED|doesn't match"):
            requests.get(f"{address}/livez", verify=trusts, timeout=30)
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://localhost:{secure.port}/livez", timeout=30)


def test_the_page_works_over_https_by_its_own_policy(secure, chrome):
    """It asks its own origin only, nothing that its policy forbids, and shows what the service answers there."""
    context = chrome.new_context(ignore_https_errors=True)  # of which authorities it trusts, the machine decides
    context.add_init_script(
        "window.violations = []; addEventListener('securitypolicyviolation', (event) => "
        "window.violations.push(event.violatedDirective));"
    )
    watched = Watched(context.new_page(), secure.origin)
    watched.page.goto(f"{secure.origin}/")
    answered(watched)
    pasted = watched.page.text_content("#answer pre")
    assert f"{secure.origin}/predict" in pasted
    request = json.loads(re.search(r"-d '(.*)'$", pasted).group(1))
    said = requests.post(f"{secure.origin}/predict", json=request, verify=secure.known, timeout=30).json()
    assert watched.page.inner_text("#answer .big").startswith(f"{round(said['probability'] * 100)} %")
    assert (watched.asked_others, watched.said, watched.violations()) == ([], [], [])
    context.close()
