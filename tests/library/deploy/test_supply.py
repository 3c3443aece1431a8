"""What the service is made of: nothing that only pipelines need, and no licence that nobody agreed to."""

from __future__ import annotations

import json
import stat
from email.message import Message
from pathlib import Path

import pytest

from fti.deploy import supply
from fti.deploy.supply import SERVICE, allowed, licence, licences, locked, needed_by, policy
from fti.deploy.supply import main as supplied


@pytest.fixture(scope="module")
def packages() -> list[dict]:
    return locked()


def test_the_service_installs_nothing_that_only_pipelines_need(packages):
    """The graph of uv.lock is walked; the pipelines' extras do bring what serving must not."""
    heavy = {"great-expectations", "pyspark", "dagster", "duckdb", "deltalake", "ibis-framework", "optuna", "moto"}
    assert needed_by(SERVICE, packages) & heavy == set()
    assert needed_by(("features",), packages) & heavy >= {"great-expectations", "duckdb", "deltalake", "ibis-framework"}
    assert "dagster" in needed_by(("dagster",), packages)


def test_the_walk_follows_extras_and_ends_in_circles():
    graph = [
        {
            "name": "me",
            "optional-dependencies": {"a": [{"name": "one", "extra": ["x"]}]},
            "dependencies": [{"name": "all"}],
        },
        {"name": "one", "dependencies": [{"name": "me"}], "optional-dependencies": {"x": [{"name": "two"}]}},
        {"name": "two", "version": "1", "dependencies": []},
        {"name": "two", "version": "2", "dependencies": [{"name": "three"}]},
        {"name": "not-this"},
    ]
    assert needed_by(["a"], graph, project="me") == {"all", "one", "two", "three"}
    assert needed_by([], graph, project="me") == {"all"}


def test_every_licence_of_the_service_is_one_that_was_agreed_to(packages):
    found = licences(needed_by(SERVICE, packages), policy())
    assert len(found) > 100
    assert {name: says for name, (says, fine) in found.items() if not fine} == {}
    assert set(policy()["packages"]) <= needed_by(SERVICE, packages), "an exception for what is not installed"


@pytest.mark.parametrize(
    ("expression", "fine"),
    [
        ("MIT", True), ("MIT AND BSD-3-Clause", True), ("MIT AND GPL-3.0-only", False), ("GPL-2.0 OR MIT", True),
        ("(MIT)", True), ("GPL-3.0-only", False), ("AGPL-3.0-or-later OR SSPL-1.0", False), ("", False),
        ("Proprietary", False),
    ],
)  # fmt: skip
def test_copyleft_alone_and_silence_are_refused(expression, fine):
    assert allowed(expression, ["MIT", "BSD-3-Clause"]) is fine


@pytest.mark.parametrize(
    ("said", "expression"),
    [
        ({"License-Expression": "MIT", "License": "GPL"}, "MIT"),
        ({"Classifier": "License :: OSI Approved :: BSD License", "License": "a long text"}, "BSD-3-Clause"),
        ({"Classifier": "License :: OSI Approved", "License": "Apache-2.0\nand so on"}, "Apache-2.0"),
        ({"Classifier": "Programming Language :: Python"}, ""),
    ],
)
def test_a_licence_is_read_wherever_a_package_says_it(said, expression):
    message = Message()
    for name, value in said.items():
        message[name] = value
    assert licence(message) == expression


def test_the_command_names_what_it_refuses(monkeypatch, capsys):
    monkeypatch.setattr(supply, "policy", lambda: policy() | {"allow": ["MIT"]})
    assert supplied(["licences"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert "REFUSED feast                                     Apache-2.0" in said
    assert all(line.startswith(("ok ", "REFUSED ")) for line in said)


def test_the_bill_names_every_package_with_its_hashes_and_licence(tmp_path, packages):
    """The same packages that the lock's graph says; licences of those that are installed here."""
    assert supplied(["sbom", str(tmp_path / "data" / "sbom.json")]) == 0
    bill = json.loads((tmp_path / "data" / "sbom.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    assert {one["name"] for one in bill["components"]} == needed_by(SERVICE, packages)
    for one in bill["components"]:
        assert one["purl"] == f"pkg:pypi/{one['name']}@{one['version']}"
        assert all(place["hashes"] for place in one["externalReferences"])
    assert sum("licenses" in one for one in bill["components"]) > 100


@pytest.mark.parametrize(
    ("said", "code", "exit_code"),
    [
        ("error: Request failed\n  cause: error sending request for url", 2, supply.UNREACHED),
        ("Found 1 known vulnerability", 1, 1),
        ("", 0, 0),
    ],
)
def test_an_audit_that_asked_nobody_does_not_pass(tmp_path: Path, monkeypatch, capsys, said, code, exit_code):
    uv = tmp_path / "uv"
    uv.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit {code}\n")
    uv.chmod(uv.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(supply, "UV", str(uv))
    assert supplied(["audit"]) == exit_code
    assert ("nothing was audited" in capsys.readouterr().err) == (exit_code == supply.UNREACHED)
