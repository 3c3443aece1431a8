"""What the pages of docs/ and the README name is there, and no command in them is left untried without saying why."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from tests.pages import LANGUAGES, ROOT, blocks, commands, pages

TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
VARIABLES = set(re.findall(r"^# ([A-Z][A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
OURS = ("SERVING_", "TRAINING_", "MONITORING_", "FTI_", "FEAST_", "GX_", "BENTOML_", "MLFLOW_")
PAGES = pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))


@PAGES
def test_every_block_says_what_it_is(page):
    """Each fence has a language; a command is run by tests/project/journeys/test_docs.py, or says in words why not."""
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block.name}: {block.language!r}; commands are `sh`, output is `text`"
        assert block.how in {"run", "skip", "slow", "background"}, f"{block.name}: {block.how!r}"
        if block.how in {"skip", "slow"}:
            assert len(block.why) > 10, f"{block.name} is not run, and does not say why"
        if block.language == "text" and page.name != "runbook.md":
            program = re.search(r"^(make|python|bentoml|mlflow|feast|git) ", block.text, re.MULTILINE)
            assert not program, f"{block.name} looks like a command: {program and program[0]!r}"
    assert page.read_text().count("```") == 2 * len(blocks(page)), f"{page}: a fence that cannot be read"


@PAGES
def test_what_commands_name_is_there(page):
    """Make's targets, modules with the options that are given, entry points of the MLflow project."""
    text = page.read_text()
    for target in set(re.findall(r"`make ([a-z-]+)", text)) | _targets(page):
        assert target in TARGETS, f"{page.name}: make {target}"
    for module in set(re.findall(r"python -m ([a-z_.]+[a-z_])", text)) - {"json.tool"}:
        assert find_spec(module), f"{page.name}: python -m {module}"
    entry_points = yaml.safe_load((ROOT / "training" / "MLproject").read_text())["entry_points"]
    for entry in re.findall(r"mlflow run training -e ([a-z]+)", text):
        assert entry in entry_points, f"{page.name}: mlflow run training -e {entry}"


def _targets(page: Path) -> set[str]:
    lines = "\n".join(block.text for block in commands(page)).splitlines()
    words = (shlex.split(line, comments=True)[1:] for line in lines if line.startswith("make "))
    return {word for line in words for word in line if re.fullmatch("[a-z-]+", word)}


def test_commands_that_are_not_run_parse():
    """Make finds the rules of each, and shell reads it: `make -n` and `sh -n`."""
    for page in pages():
        for block in commands(page):
            if block.how == "run":
                continue
            read = subprocess.run(["sh", "-n"], input=block.text, capture_output=True, text=True)
            assert read.returncode == 0, f"{block.name}: {read.stderr}"
            for line in block.text.splitlines():
                if line.startswith("make ") and "|" not in line:
                    dry = subprocess.run(
                        ["make", "-n", *shlex.split(line, comments=True)[1:]], cwd=ROOT, capture_output=True, text=True
                    )
                    assert dry.returncode == 0, f"{block.name}: {line}: {dry.stderr}"


@PAGES
def test_links_lead_somewhere(page):
    """To files of the project, and to headings of its pages."""
    for target in re.findall(r"(?<!`)\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / unquote(path)).resolve() if path else page
        assert file.exists(), f"{page.relative_to(ROOT)}: {target}"
        assert file.is_relative_to(ROOT)
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            slugs = {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}
            assert heading in slugs, f"{page.relative_to(ROOT)}: {target}"


@PAGES
def test_variables_are_those_of_the_example(page):
    """Whoever reads of a variable finds it, with its default, in .env.example."""
    named = {
        name for name in re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", page.read_text()) if name.startswith(OURS)
    }
    assert named <= VARIABLES, f"{page.name}: {sorted(named - VARIABLES)}"


@PAGES
def test_paths_are_those_of_the_project(page):
    """What is quoted like a file of the project is one."""
    roots = "src|feature_repo|training|serving|validation|deploy|tests|docs"
    for path in re.findall(rf"`((?:{roots})/[\w./-]+)`", page.read_text()):
        assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_the_faults_that_were_tried_are_tried_by_tests() -> None:
    """Each by the name that the page gives."""
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "explanation" / "faults.md").read_text()))
    there = {
        name for file in (ROOT / "tests").rglob("*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    assert named
    assert named <= there


def test_the_navigation_has_every_page():
    """A page that no menu leads to is not found."""
    text = (ROOT / "mkdocs.yml").read_text()
    listed = set(re.findall(r"- ([\w/-]+\.md)", text))
    assert listed == {str(page.relative_to(ROOT / "docs")) for page in pages()[1:]}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The pages, built strictly: a warning is an error."""
    to = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(to)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-3000:]
    return to


def test_built_pages_ask_no_other_machine(site):
    """Scripts, styles, fonts and pictures come from the site itself."""
    built = sorted(site.rglob("*.html"))
    assert len(built) > 20
    for page in built:
        text = page.read_text()
        fetched = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?([^\"'\s>]+)", text)
        fetched += re.findall(r"<link\b(?![^>]*rel=[\"']?canonical)[^>]*\bhref=[\"']?([^\"'\s>]+)", text)
        fetched += re.findall(r"url\(([^)]+)\)", text)
        assert fetched
        assert not [address for address in fetched if re.match(r"[\"']?(https?:)?//", address)], page
    for style in site.rglob("*.css"):
        assert not re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", style.read_text()), style


def test_built_pages_say_what_the_code_says(site):
    """Help of commands, variables, columns and docstrings are in the pages; no placeholder is left."""
    reference = site / "reference"
    assert "--accept SUITE.RULE" in (reference / "commands.html").read_text()
    environment = (reference / "environment.html").read_text()
    assert all(f"<code>{name}</code>" in environment for name in VARIABLES)
    assert "held_id" in (reference / "tables.html").read_text()
    assert "contract_sha256" in (reference / "tables.html").read_text()
    assert "fti_feature_age_seconds" in (reference / "metrics.html").read_text()
    assert "The live feature registry cannot honour a model" in (reference / "python.html").read_text()
    assert not [page for page in site.rglob("*.html") if "generated:" in page.read_text()]
