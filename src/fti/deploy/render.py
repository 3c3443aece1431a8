"""What the chart becomes: its files in; `kubernetes.yaml` out, which is read, checked and tested instead of templates.

    fti chart

It needs `helm` on the PATH. The first line says which files it was rendered from, so that a rendering which is older
than its chart is found where there is no helm, too. Exit codes: 0 done, 1 failed.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

from fti.command import fail
from fti.project import project


def folder() -> Path:
    """Where the files are that people edit."""
    return project().root / "deploy"


def digest() -> str:
    """Of all files of the chart, and of the values that it is rendered with."""
    chart = folder() / "chart"
    files = sorted(file for file in chart.rglob("*") if file.is_file())
    named = [f"{file.relative_to(chart)}\n".encode() + file.read_bytes() for file in files]
    return hashlib.sha256(b"".join(named)).hexdigest()


def render(helm: str) -> str:
    """The example, rendered. Raises CalledProcessError when helm refuses the chart or the values."""
    chart = folder() / "chart"
    example = str(chart / "example.yaml")
    subprocess.run([helm, "lint", "--strict", "--quiet", str(chart), "-f", example], check=True)
    command = [helm, "template", "fti", str(chart), "--namespace", "fti", "-f", example]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return f"# make chart: deploy/chart with example.yaml, {digest()}\n{done.stdout}"


def execute() -> int:
    """Render the chart; returns the exit code."""
    helm = shutil.which("helm")
    try:
        if helm is None:
            raise FileNotFoundError("helm is not on the PATH: https://helm.sh/docs/intro/install")
        (folder() / "kubernetes.yaml").write_text(render(helm))
    except (OSError, subprocess.CalledProcessError) as error:
        return fail(getattr(error, "stderr", None) or error)
    return 0
