"""The commands of deployment: what each takes, and what is wrong with it before anything heavy is imported."""

from __future__ import annotations

from typing import Any

import click

from fti.command import EXISTING, FILE, FOLDER, Command, Group, Option, flag

SECTION = "Deployment"
ROLES = ("features", "training", "serving", "loop")
SERVERS = ("postgres", "valkey", "objects", "mlflow")
WORKERS = Option("--workers", type=click.IntRange(1), usual="as before; 2 at first", help="Processes of the service.")


@click.pass_context
def _production(ctx: click.Context, /, **given: Any) -> int:
    from fti.deploy.production import execute

    return execute(str(ctx.info_name), ctx.parent.params["folder"] if ctx.parent else None, **given)


@click.pass_context
def _compose(ctx: click.Context, /, **given: Any) -> int:
    if ctx.command is COMPOSE and ctx.invoked_subcommand:
        return 0  # which does it
    from fti.deploy.compose import execute

    options = ctx.parent.params if ctx.parent and ctx.parent.command is COMPOSE else {}
    return execute(str(ctx.info_name), **(options | given))


def _chart() -> int:
    from fti.deploy.render import execute

    return execute()


@click.pass_context
def _supply(ctx: click.Context, /, **given: Any) -> int:
    from fti.deploy.supply import execute

    return execute(str(ctx.info_name), **given)


PRODUCTION = Group(
    "production",
    Option("--folder", type=FOLDER, usual="data/production", help="Where it lives."),
    commands=[
        Command(
            "up", _production, WORKERS, flag("--rotate", help="With new passwords, but for the superusers'."),
            about="Start what is not running, and wait until it is healthy.",
        ),
        Command("status", _production, about="Say what runs, where, and where its logs are."),
        Command(
            "backup", _production, click.Argument(["file"], type=FILE),
            about="Copy what Postgres holds into FILE, which must not be there.",
        ),
        Command(
            "restore", _production, click.Argument(["file"], type=EXISTING),
            flag("--replace", help="And give up what is there now."),
            about="Put back what `backup` wrote; next: up.",
        ),
        Command(
            "down", _production, flag("--purge", help="And delete databases, logs and passwords."),
            about="Stop everything.",
        ),
        Command(
            "run", _production, click.Argument(["role"], type=click.Choice(ROLES)),
            click.Argument(["args"], nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND..."),
            about="Run a command with the variables of a role.", passes_on=True,
        ),
    ],
    about="The production profile on this machine: its servers, supervised.",
)  # fmt: skip
COMPOSE = Group(
    "compose",
    Option("--folder", type=FOLDER, usual="data/compose", help="Where the files are."),
    WORKERS,
    commands=[
        Command("rotate", _compose, about="New passwords, but for the superusers'."),
        Command(
            "prepare", _compose,
            click.Argument(["servers"], nargs=-1, required=True, type=click.Choice(SERVERS)),
            about="In a container: make what has to be there in a server.",
        ),
    ],
    work=_compose,
    about="Write the secrets and settings that deploy/compose.yaml mounts.",
)  # fmt: skip
CHART = Command(
    "chart", _chart, about="Check deploy/chart and render it into deploy/kubernetes.yaml; needs helm on the PATH."
)
SUPPLY = [
    Command("audit", _supply, about="Known vulnerabilities of all in uv.lock; 69: nobody could be asked."),
    Command("licences", _supply, about="Licences of what the service installs; fails on one that is not allowed."),
    Command(
        "sbom", _supply, click.Argument(["file"], type=FILE, required=False),
        about="Write the service's bill of materials, CycloneDX.",
    ),
]  # fmt: skip
COMMANDS = [PRODUCTION, COMPOSE, CHART, *SUPPLY]
