"""Run an expectation suite over a batch: a frame in; the good rows, the held rows with reasons, and a verdict out.

A *row rule* judges each row: a row that breaks one goes to quarantine and the rest go on. A *batch rule* judges the
batch as a whole: when it breaks, nothing of the batch may be used. Rules of severity `warning` are only reported.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import great_expectations as gx
import numpy as np
import pandas as pd
from great_expectations.core import ExpectationSuite
from great_expectations.expectations.expectation import Expectation

from fti.errors import MESSAGE, Refusal, few, short

ROW_NUMBER = "__row"
logger = logging.getLogger(__name__)


class BatchRefused(Refusal):
    """A batch broke a batch rule, or too many of its rows broke row rules. Nothing of it may be published."""


@dataclass(frozen=True)
class Suite:
    """The rules for one table. `min_rows` 0 allows an empty batch; `label` is the column that names a row to readers.

    A batch of which more than `max_held_share` is held is refused, unless that is no more than `few_held` rows: one bad
    row of eight is a bad row, and no bad feed.
    """

    name: str
    row_rules: Mapping[str, Expectation]
    batch_rules: Mapping[str, Expectation] = field(default_factory=dict)
    min_rows: int = 1
    max_held_share: float = 0.05
    few_held: int = 2
    label: str | None = None

    def of_a_few(self) -> Suite:
        """For rows by themselves: how many there are, what most are like and which share is held says nothing."""
        unique = {name: rule for name, rule in self.batch_rules.items() if type(rule).__name__.endswith("BeUnique")}
        return replace(self, batch_rules=unique, min_rows=0, max_held_share=1.0)


@dataclass(frozen=True)
class Finding:
    """What one rule found: how many rows broke it (batch rules: the observed value) and what follows."""

    suite: str
    rule: str
    scope: str
    severity: str
    passed: bool
    broken: int
    observed: str

    @property
    def stops(self) -> bool:
        return self.scope == "batch" and not self.passed and self.severity == "critical"


@dataclass(frozen=True)
class Outcome:
    """`accepted` has the batch's columns; `held` has them too, and `rules`, the names of the rules each row broke."""

    suite: str
    rows: int
    accepted: pd.DataFrame
    held: pd.DataFrame
    findings: list[Finding]

    @property
    def refusals(self) -> list[str]:
        return [f"{found.rule} ({found.observed})" for found in self.findings if found.stops]

    def require(self, batch: str, mend: str = "") -> Outcome:
        """Return self, or raise BatchRefused with a one-line reason; `mend` says what to do, if not the usual."""
        if self.refusals:
            usual = (
                "Nothing of it was published; what was published before stays. Mend the source, or the rule in "
                "validation/ if that is wrong, and run again; or, if the batch is odd but right, with "
                f"`--accept {self.suite}.RULE`."
            )
            raise BatchRefused(f"{self.suite}, batch {batch}: refused by {'; '.join(self.refusals)}. {mend or usual}")
        return self


class Gate:
    """Runs suites and remembers their results for Data Docs.

    `accept` names batch rules, as suite.rule, that are only reported: for a batch that is odd and known to be right.
    """

    def __init__(self, accept: Collection[str] = ()) -> None:
        self._accept = frozenset(accept)
        logging.getLogger("great_expectations").setLevel(logging.WARNING)
        # It warns of the temporary folder that an ephemeral context makes.
        logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.ERROR)
        self._context = gx.get_context(mode="ephemeral")
        bars = {"globally": False, "metric_calculations": False}
        self._context.variables.progress_bars = bars  # type: ignore[assignment]
        asset = self._context.data_sources.add_pandas("batches").add_dataframe_asset("batch")
        self._batch = asset.add_batch_definition_whole_dataframe("whole")
        self._definitions: dict[str, tuple[dict[str, Expectation], gx.ValidationDefinition]] = {}
        self.findings: list[Finding] = []

    def check(self, frame: pd.DataFrame, suite: Suite, known: Callable[[pd.DataFrame], int] | None = None) -> Outcome:
        """Judge a batch. Never raises for bad data: see `Outcome.require`.

        `known` counts those of the held rows that somebody was told of before: a source that repeats them is no worse
        for it, so they count neither as rows of the batch nor as held ones.
        """
        judged = list(self._run(frame, suite)) if len(frame) else []
        broken_by_row: dict[int, list[str]] = {}
        for finding, rows in judged:
            if finding.scope == "row" and finding.severity == "critical":
                for row in rows:
                    broken_by_row.setdefault(row, []).append(finding.rule)
        held_rows = sorted(broken_by_row)
        held = frame.iloc[held_rows].assign(rules=[",".join(sorted(broken_by_row[row])) for row in held_rows])
        repeated = known(held) if known and held_rows else 0
        findings = [self._size(len(frame) - repeated, suite), *(finding for finding, _ in judged)]
        if len(frame):
            findings.append(self._held_share(broken_by_row, len(frame), repeated, suite))
        findings = [
            replace(found, severity="accepted") if f"{found.suite}.{found.rule}" in self._accept else found
            for found in findings
        ]
        self.findings += findings
        # By position: an index label may belong to several rows.
        accepted = frame[~np.isin(np.arange(len(frame)), held_rows)] if held_rows else frame
        return Outcome(suite.name, len(frame), accepted, held, findings)

    def write_docs(self, directory: Path) -> Path:
        """Render every result so far as HTML; returns the index page."""
        directory.mkdir(parents=True, exist_ok=True)
        self._context.add_data_docs_site(
            "local",
            {
                "class_name": "SiteBuilder",
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
                "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(directory)},
            },
        )
        self._context.build_data_docs(site_names=["local"])
        return directory / "index.html"

    def _run(self, frame: pd.DataFrame, suite: Suite) -> Iterable[tuple[Finding, list[int]]]:
        scopes = dict.fromkeys(suite.row_rules, "row") | dict.fromkeys(suite.batch_rules, "batch")
        rules = {**suite.row_rules, **suite.batch_rules}
        definition = self._definition(suite.name, rules)
        results = definition.run(batch_parameters={"dataframe": frame}, result_format="BASIC").results
        broken_rows = self._broken_rows(frame, rules, [_rule(r) for r in results if r.result.get("unexpected_count")])
        for result in results:
            rule = _rule(result)
            severity = str(getattr(rules[rule].severity, "value", rules[rule].severity))
            rows = broken_rows.get(rule, [])
            observed = _observed(
                result.result.get("observed_value", _named_rows(frame, suite.label, rows, result.result))
            )
            error = _error(result.exception_info)
            # A rule that could not even run (a missing or retyped column) says nothing of single rows: it stops all.
            scope = "batch" if error else scopes[rule]
            yield (Finding(suite.name, rule, scope, severity, bool(result.success), len(rows), error or observed), rows)

    def _broken_rows(
        self, frame: pd.DataFrame, rules: dict[str, Expectation], broken: list[str]
    ) -> dict[str, list[int]]:
        """The positions of the rows that broke each of these rules. To list them takes as long as to judge them all."""
        if not broken:
            return {}
        numbered = frame.assign(**{ROW_NUMBER: range(len(frame))})
        results = (
            self._batch.get_batch({"dataframe": numbered})
            .validate(
                ExpectationSuite(name="broken rules", expectations=_marked({rule: rules[rule] for rule in broken})),
                # The row number alone names a row: a compound key would cost far more.
                result_format={"result_format": "COMPLETE", "unexpected_index_column_names": [ROW_NUMBER]},
            )
            .results
        )
        return {
            _rule(r): [int(entry[ROW_NUMBER]) for entry in r.result.get("unexpected_index_list", [])] for r in results
        }

    def _definition(self, name: str, rules: dict[str, Expectation]) -> gx.ValidationDefinition:
        """What to run, registered for Data Docs; anew only if the rules under this name have changed."""
        known = self._definitions.get(name)
        if known and known[0] == rules:
            return known[1]
        suites, definitions = self._context.suites, self._context.validation_definitions
        suite = ExpectationSuite(name=name, expectations=_marked(rules))
        # `add_or_update` first looks for what cannot be there yet, and takes three times as long.
        suite = suites.add_or_update(suite) if known else suites.add(suite)
        definition = gx.ValidationDefinition(name=name, data=self._batch, suite=suite)
        definition = definitions.add_or_update(definition) if known else definitions.add(definition)
        self._definitions[name] = rules, definition
        return definition

    @staticmethod
    def _size(rows: int, suite: Suite) -> Finding:
        enough = rows >= suite.min_rows
        observed = f"{rows} rows, at least {suite.min_rows} expected"
        return Finding(suite.name, "enough_rows", "batch", "critical", enough, 0, observed)

    @staticmethod
    def _held_share(broken_by_row: Mapping[int, list[str]], rows: int, repeated: int, suite: Suite) -> Finding:
        held, rows = len(broken_by_row) - repeated, rows - repeated
        share = held / rows if rows else 0.0
        observed = f"{held} of {rows} rows held, {share:.2%}, at most {suite.max_held_share:.0%} allowed"
        if repeated:
            observed += f", not counting {repeated} that quarantine has already"
        rules = Counter(rule for broken in broken_by_row.values() for rule in broken).most_common(3)
        if rules:
            observed += f", mostly by {', '.join(f'{rule} ({rows})' for rule, rows in rules)}"
        passed = held <= suite.few_held or share <= suite.max_held_share
        return Finding(suite.name, "few_rows_held", "batch", "critical", passed, held, observed)


def _marked(rules: Mapping[str, Expectation]) -> list[Expectation]:
    """The rules as Great Expectations takes them, each with its name."""
    return [rule.copy(update={"meta": {"rule": name}}) for name, rule in rules.items()]


def _rule(result: Any) -> str:
    return result.expectation_config.meta["rule"]


def _observed(value: Any) -> str:
    """What an expectation saw. Some see a list of all values that a column has."""
    return few(value) if isinstance(value, list | tuple | set) else short(value, MESSAGE)


def _named_rows(frame: pd.DataFrame, label: str | None, rows: list[int], result: dict[str, Any]) -> str:
    """How many rows broke a rule, and with which values: three of them; with a label, which rows those are."""
    values = result.get("partial_unexpected_list", [])[:3] if rows else []
    if label is None:
        told = [short(value) for value in dict.fromkeys(map(str, values)) if value not in ("None", "nan", "NaT")]
        return f"{len(rows)} rows" + (f", such as {', '.join(told)}" if told else "")
    first = zip(frame[label].iloc[rows[:3]], values, strict=True)
    named = ", ".join(f"{name}: {value:.4g}" for name, value in first)
    return f"{len(rows)} of {len(frame)}, {named}{', ...' if len(rows) > 3 else ''}" if rows else "0 rows"


def _error(exception_info: dict[str, Any] | None) -> str:
    """The message of an expectation that raised instead of judging, else an empty string."""
    for entry in [exception_info or {}, *(v for v in (exception_info or {}).values() if isinstance(v, dict))]:
        if entry.get("raised_exception"):
            return short(" ".join(str(entry.get("exception_message")).split()), MESSAGE)
    return ""
