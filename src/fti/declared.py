"""Plain values that a module assigns, read without running it: a date should not cost the import of pandas.

A value that is not plain is not found; the caller then imports the module.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any


def constants(file: Path) -> dict[str, Any]:
    """Return what a module assigns once, at its top and as a literal; nothing of one that cannot be read."""
    module = _parsed(file)
    if module is None:
        return {}
    stored = [node.id for node in ast.walk(module) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    values: dict[str, Any] = {}
    for names, value in _assignments(module):
        found = _literal(value)
        if len(names) == 1:
            values[names[0]] = found
        elif isinstance(found, tuple) and len(found) == len(names):
            values |= dict(zip(names, found, strict=True))
    return {name: value for name, value in values.items() if value is not None and stored.count(name) == 1}


def keys(file: Path, name: str) -> list[str] | None:
    """Return the keys of the dictionary that a module assigns to a name, or None where they are not literals."""
    for names, value in _assignments(_parsed(file) or ast.Module([], [])):
        if names == [name] and isinstance(value, ast.Dict):
            found = [_literal(key) if key is not None else None for key in value.keys]
            return None if None in found else [str(one) for one in found]
    return None


def calls(file: Path, function: str) -> list[str]:
    """Return the names, as far as they are literals, that a module gives what it makes by a function: name="..."."""
    module = _parsed(file) or ast.Module([], [])
    found = []
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == function:
            found += [
                str(_literal(word.value)) for word in node.keywords if word.arg == "name" and _literal(word.value)
            ]
    return found


def _parsed(file: Path) -> ast.Module | None:
    try:
        return ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None


def _assignments(module: ast.Module) -> list[tuple[list[str], ast.expr]]:
    """The names and the value of each assignment at the top of a module."""
    found: list[tuple[list[str], ast.expr]] = []
    for node in module.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            target, value = node.target, node.value
        else:
            continue
        names = [part.id for part in getattr(target, "elts", [target]) if isinstance(part, ast.Name)]
        if names:
            found.append((names, value))
    return found


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
