"""The fenced blocks of the project's pages: Markdown in; commands with what is to come of them, out.

A block of ```sh is a command. What stands in a comment right before it, `<!-- test: ... -->`, is how it is tried:
`skip, REASON` and `slow, REASON` are not run (slow ones are with DOCS_SLOW=1), `background` goes on while others run,
`exit 1` ends with that code. A block of ```text after it is what it prints, `...` being anything.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(
    r"^(?P<indent> *)(?:<!-- test: (?P<test>[^\n]*?) -->\n *)?```(?P<language>[^\n]*)\n(?P<body>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
LANGUAGES = {"sh", "text", "yaml", "python", "json", "toml", "diff", "html", "sql", "nginx"}


@dataclass(frozen=True)
class Block:
    """One block of a page. `how` is run, skip, slow or background."""

    page: Path
    line: int
    language: str
    text: str
    how: str = "run"
    why: str = ""
    codes: tuple[int, ...] = (0,)
    shown: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    text = page.read_text()
    return [_block(page, text, found) for found in FENCE.finditer(text)]


def commands(page: Path) -> list[Block]:
    """The page's commands, each with the lines that are shown right after it."""
    text, found = page.read_text(), list(FENCE.finditer(page.read_text()))
    made = []
    for one, after in zip_longest(found, found[1:]):
        block = _block(page, text, one)
        if block.language != "sh":
            continue
        # Prose in between is no matter; a heading is another subject.
        if (
            after
            and after["language"] == "text"
            and not re.search(r"^#", text[one.end() : after.start()], re.MULTILINE)
        ):
            shown = tuple(line for line in after["body"].splitlines() if line.strip(" ."))
            block = Block(**(vars(block) | {"shown": shown}))
        made.append(block)
    return made


def _block(page: Path, text: str, found: re.Match[str]) -> Block:
    how, _, why = (found["test"] or "run").partition(", ")
    codes = (0,)
    if how.startswith("exit "):
        codes, how = tuple(int(code) for code in re.findall(r"\d+", how)), "run"
    line = text.count("\n", 0, found.start()) + 1
    language = found["language"].split(" ")[0]
    return Block(page, line, language, textwrap.dedent(found["body"]), how, why, codes)
