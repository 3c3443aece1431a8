"""What the service is made of: uv.lock and the installed packages in; a bill of materials, a verdict on licences out.

    fti licences
    fti sbom data/sbom.json
    fti audit

Exit codes: 0 done, 1 a licence is refused or a vulnerability known, 2 wrong usage, 69 the service that knows of
vulnerabilities cannot be reached, and nothing was audited.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from fti.command import alias
from fti.project import project

SERVICE = ("serving", "production")  # the extras that the Bento installs
UNREACHED = 69
UV = str(Path(sys.executable).with_name("uv"))
# What packages say that name no SPDX identifier, or none of now.
SPDX = {
    "3-Clause BSD License": "BSD-3-Clause", "Apache License 2.0": "Apache-2.0", "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause", "BSD License": "BSD-3-Clause", "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0", "Python Software Foundation License": "PSF-2.0",
}  # fmt: skip


def locked() -> list[dict[str, Any]]:
    """The packages of uv.lock, one for each version."""
    return list(tomllib.loads((project().root / "uv.lock").read_text())["package"])


def needed_by(extras: Iterable[str], packages: list[dict[str, Any]], project: str = "fti") -> set[str]:
    """The names of all packages that these extras of the project bring, on any platform."""
    found: set[tuple[str, str]] = set()  # of a package, or of one of its extras
    ahead = [(project, ""), *((project, extra) for extra in extras)]
    while ahead:
        name, extra = ahead.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        for package in (one for one in packages if one["name"] == name):
            by_extra = package.get("optional-dependencies", {})
            brings = by_extra.get(extra, []) if extra else package.get("dependencies", [])
            ahead += [(one["name"], more) for one in brings for more in ["", *one.get("extra", [])]]
    return {name for name, _ in found} - {project}


def licence(said: PackageMetadata) -> str:
    """An SPDX expression out of what a package says of itself; empty when it says nothing."""
    if expression := said.get_all("License-Expression", []):
        return str(expression[0])
    named = [one.rpartition(" :: ")[2] for one in said.get_all("Classifier", []) if one.startswith("License :: ")]
    words = "".join(said.get_all("License", [])[:1]).strip()
    names = [one for one in named if one != "OSI Approved"] or [words.partition("\n")[0]]
    return " OR ".join(SPDX.get(one, one) for one in names)


def allowed(expression: str, allow: Iterable[str]) -> bool:
    """Whether an expression can be met by licences of a list: all that AND joins, one of those that OR does."""
    names, known = re.sub(r"[()]", "", expression), set(allow)
    return bool(names) and any(set(either.split(" AND ")) <= known for either in names.split(" OR "))


def licences(names: Iterable[str], policy: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """By package: its licence, and whether `policy` lets it in. What is for another platform is left out."""
    found = {}
    for name in sorted(names):
        try:
            says = policy["packages"].get(name) or licence(metadata(name))
        except PackageNotFoundError:
            continue
        found[name] = says, name in policy["packages"] or allowed(says, policy["allow"])
    return found


def policy() -> dict[str, Any]:
    return dict(tomllib.loads((project().root / "pyproject.toml").read_text())["tool"]["fti"]["licences"])


def sbom(file: Path) -> int:
    """CycloneDX 1.5 as uv writes it, with every package's hashes, and with licences; returns how many packages."""
    extras = [word for extra in SERVICE for word in ("--extra", extra)]
    command = [UV, "export", "--quiet", "--frozen", "--preview-features", "sbom-export", "--format", "cyclonedx1.5"]
    done = subprocess.run([*command, *extras], cwd=project().root, check=True, capture_output=True, text=True)
    bill = json.loads(done.stdout)
    found = licences({one["name"] for one in bill["components"]}, policy())
    for one in bill["components"]:
        if says := found.get(one["name"], ("", False))[0]:
            one["licenses"] = [{"expression": says}]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(bill, indent=1))
    return len(bill["components"])


def audit() -> int:
    """Ask OSV about every package of uv.lock, by uv."""
    command = [UV, "audit", "--frozen", "--preview-features", "audit-command"]
    done = subprocess.run(command, cwd=project().root, check=False, stderr=subprocess.PIPE, text=True)
    sys.stderr.write(done.stderr)
    if "error sending request" in done.stderr or "dns error" in done.stderr:
        sys.stderr.write("error: the vulnerability service cannot be reached; nothing was audited\n")
        return UNREACHED
    return done.returncode


def main(argv: list[str] | None = None) -> int:
    return alias("fti.deploy.supply", "fti.deploy.commands:SUPPLY", argv)


def execute(command: str, file: Path | None = None) -> int:
    """Carry out one command; returns the exit code."""
    if command == "audit":
        return audit()
    if command == "sbom":
        file = file or project().root / "data" / "sbom.json"
        print(f"{file}: {sbom(file)} packages")
        return 0
    found = licences(needed_by(SERVICE, locked()), policy())
    for name, (says, fine) in found.items():
        print(f"{'ok' if fine else 'REFUSED':8}{name:42}{says or 'says nothing'}")
    return 0 if all(fine for _, fine in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
