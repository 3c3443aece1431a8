"""What the pages of docs/ say of the code is taken from the code when they are built, so that it cannot be old.

A hook of MkDocs. `<!-- generated: NAME -->` in a page becomes what the function of that name returns, and a link to a
file of the project, which is no page, becomes its path.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    made = re.sub(r"<!-- generated: (\w+) -->", lambda found: GENERATED[found[1]](), markdown)
    folder = Path(page.file.abs_src_path).parent
    return re.sub(r"\[([^\]]+)\]\((\.\.?/[^)#\s]+)\)", lambda found: _link(found, folder), made)


def _link(found: re.Match[str], folder: Path) -> str:
    """A link between pages as it is; one to a file that is no page as the file's path."""
    target = (folder / found[2]).resolve()
    if target.is_relative_to(ROOT / "docs"):
        return found[0]
    path = f"`{target.relative_to(ROOT)}`"
    return path if found[1].strip("`") in path else f"{found[1]} ({path})"


def commands() -> str:
    """What each command says of itself when it is asked, by pipeline."""
    from fti.cli.app import app

    parts = []
    for section, listed in app().sections.items():
        parts.append(f"## {section}")
        for command in listed.values():
            parts += [f"### `{path}`\n\n```text\n{text}\n```" for path, text in helps(command, f"fti {command.name}")]
    return "\n\n".join(parts)


def helps(command: click.Command, path: str) -> Iterator[tuple[str, str]]:
    """The help of a command and of those in it."""
    with click.Context(command, info_name=path, terminal_width=99) as context:
        yield path, command.get_help(context)
        for name in command.list_commands(context) if isinstance(command, click.Group) else ():
            yield from helps(command.commands[name], f"{path} {name}")


def targets() -> str:
    """Make's targets and variables, by its own sections."""
    lines = []
    for line in (ROOT / "Makefile").read_text().splitlines():
        if found := re.match(r"##@ ([^:(]+)", line):
            lines += ["", f"## {found[1].strip()}", "", "| | |", "|---|---|"]
        elif found := re.match(r"([a-z][a-z-]*):.*## (.*)", line):
            lines.append(f"| `make {found[1]}` | {_escaped(found[2])} |")
        elif found := re.match(r"##\? (.+?)  +(.*)", line):
            lines.append(f"| `{found[1]}` | {_escaped(found[2])} |")
    return "\n".join(lines)


def variables() -> str:
    """The environment variables of .env.example, with their defaults and what is said above them."""
    lines, said = ["| variable | unset means | |", "|---|---|---|"], []
    for line in (ROOT / ".env.example").read_text().splitlines()[3:]:
        if found := re.match(r"# ([A-Z][A-Z0-9_]+)=(.*)", line):
            lines.append(f"| `{found[1]}` | {f'`{found[2]}`' if found[2] else ''} | {_escaped(' '.join(said))} |")
            said = said if not said or said[-1] == "″" else ["″"]
        elif line.startswith("# "):
            said = [line[2:]] if said == ["″"] or not said else [*said, line[2:]]
        else:
            said = []
    return "\n".join(lines)


def contract() -> str:
    """The contract's parts, from the models that read and write it."""
    from fti.contract import feature_contract
    from fti.contract import interface as parts

    shown = (
        feature_contract.FeatureContract, parts.FeatureInterface, parts.ModelInput, parts.JoinKey, parts.RequestField,
        parts.StoredView, parts.OnDemandView, feature_contract.TrainingSet,
    )  # fmt: skip
    return "\n\n".join(
        f"## {part.__name__}\n\n{inspect.getdoc(part)}\n\n"
        + _table(
            ["field", "type", "when it is not there"],
            (
                [
                    f"`{name}`",
                    _type(schema),
                    f"`{json.dumps(schema['default'])}`" if "default" in schema else "required",
                ]
                for name, schema in part.model_json_schema()["properties"].items()
            ),
        )
        for part in shown
    )


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"{_type(schema['additionalProperties'])} by name"
    return str(schema.get("format", schema.get("const", schema.get("type", "anything"))))


def sql_tables() -> str:
    """The tables beside the log of predictions, from their definitions."""
    import fti.contract.results
    import fti.loop.records
    from fti.contract.predictions import METADATA

    assert fti.loop.records
    return "\n\n".join(
        f"### `{table.name}`\n\n"
        + _table(
            ["column", "type", "key", "null"],
            (
                [f"`{one.name}`", str(one.type), "yes" if one.primary_key else "", "yes" if one.nullable else ""]
                for one in table.columns
            ),
        )
        for table in METADATA.tables.values()
    )


def raw_tables() -> str:
    """The raw events: their columns, and what a row is one of."""
    from feature_repo.source import RAW_KEYS, RAW_SCHEMAS

    return "\n\n".join(
        f"### `{name}`\n\nOne row for each {', '.join(f'`{key}`' for key in RAW_KEYS[name])}.\n\n"
        + _table(["column", "type"], ([f"`{field.name}`", str(field.type)] for field in schema))
        for name, schema in RAW_SCHEMAS.items()
    )


def metrics() -> str:
    """What the service counts."""
    from fti.serving import metrics as counted

    found = {id(one): one for one in vars(counted).values() if getattr(one, "_name", "").startswith("fti_")}
    return _table(
        ["metric", "type", "labels", "what it is"],
        (
            [f"`{one._name}{'_total' if one._type == 'counter' else ''}`", one._type, ", ".join(one._labelnames),
             one._documentation]
            for one in found.values()
        ),
    )  # fmt: skip


def _table(columns: list[str], rows: Iterable[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *([_escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


GENERATED: dict[str, Callable[[], str]] = {
    "commands": commands,
    "targets": targets,
    "variables": variables,
    "contract": contract,
    "sql_tables": sql_tables,
    "raw_tables": raw_tables,
    "metrics": metrics,
}
