"""The files that a problem brings, as one list: a project's folder in; which there are, and how many lines, out.

python -m examples.yours            (of flights, this project)
python -m examples.yours footfall   (of an example)
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
FLIGHTS = "flights"
# By glob, because a problem may cut its suites as it likes; each with what it must hold.
YOURS = {
    "feature_repo/source.py": "your source, as tables of events, each stamped with the moment it was knowable",
    "feature_repo/transforms.py": "features from events, as ibis expressions",
    "feature_repo/entities.py": "what features describe, and how a request finds it",
    "feature_repo/data_sources.py": "what a request carries beside its keys",
    "feature_repo/feature_views.py": "each stored feature, its unit, window and time to live; the spine and the label",
    "feature_repo/on_demand_feature_views.py": "features computed from the request",
    "feature_repo/feature_services.py": "what each model generation reads",
    "feature_repo/datasheet.md": "where the data come from, in words",
    "validation/*.py": "what good data look like: raw events, batches, features, a training set",
    "training/config.yaml": "names, dates, parameters, slices and the gate",
    "training/model.py": "the unfitted estimator",
    "training/references.py": "what it has to beat",
    "training/card.md": "what the model is for, and its limits, in words",
    "feature_repo/faults.py": "faults to live through in a replay; none is fine",
}


def folder_of(example: str) -> Path:
    """Where the files of a problem are."""
    return ROOT if example == FLIGHTS else EXAMPLES / example


def there() -> list[str]:
    """The problems that there are."""
    return [FLIGHTS, *sorted(file.parent.name for file in EXAMPLES.glob("*/example.toml"))]


def files_of(folder: Path) -> list[Path]:
    """The files that the problem in a folder brings, relative to it, in order of the list."""
    found = [path for pattern in YOURS for path in sorted(folder.glob(pattern))]
    return [path.relative_to(folder) for path in found]


def lines_of(file: Path) -> int:
    return len(file.read_text().splitlines())


def table(folder: Path) -> str:
    """A row of Markdown an entry of the list: the file or files, their lines, and what they must hold."""
    rows = ["| file | lines | what it holds |", "|---|---|---|"]
    total = 0
    for pattern, holds in YOURS.items():
        lines = [lines_of(path) for path in folder.glob(pattern)]
        total += sum(lines)
        rows.append(f"| `{pattern}` | {sum(lines)} | {holds} |")
    return "\n".join([*rows, f"| {len(files_of(folder))} files | {total} | |"])


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    print(table(folder_of(arguments[0] if arguments else FLIGHTS)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
