"""The rooms of the core: few arrows between them, and one picture of them in code and docs."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import taskmux

ROOT = Path(taskmux.__file__).parent
PROJECT = ROOT.parent
MOST_ARROWS = 50


def room_of(file: Path) -> str:
    first = file.relative_to(ROOT).parts[0]
    return "taskmux" if first == "__init__.py" else first.removesuffix(".py")


def imported(tree: ast.AST) -> set[str]:
    """Return the rooms that a file imports from; `from taskmux import x` may name a room, too."""
    rooms = {path.name.removesuffix(".py") for path in ROOT.iterdir()}
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module="taskmux"):
                found |= {one.name if one.name in rooms else "taskmux" for one in node.names}
            case ast.ImportFrom(module=str(module)) if module.startswith("taskmux."):
                found.add(module.split(".")[1])
            case ast.Import():
                names = [one.name for one in node.names if one.name.startswith("taskmux.")]
                found |= {name.split(".")[1] for name in names}
    return found


def arrows() -> set[tuple[str, str]]:
    return {
        (room_of(file), other)
        for file in ROOT.rglob("*.py")
        for other in imported(ast.parse(file.read_text(encoding="utf-8")))
        if other != room_of(file)
    }


def test_few_arrows_run_between_the_rooms() -> None:
    assert len(arrows()) < MOST_ARROWS, sorted(arrows())


def layers() -> list[set[str]]:
    """Return the rooms of each layer that import-linter checks, top to bottom."""
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = settings["tool"]["importlinter"]["contracts"][0]
    return [set(re.findall(r"taskmux\.(\w+)", layer)) for layer in contract["layers"]]


def test_the_docs_draw_the_layers_that_are_checked() -> None:
    page = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = re.search(r"<!-- rooms -->\n```\n(.*?)```", page, re.DOTALL)
    assert drawn is not None
    assert [set(row[:30].split()) for row in drawn[1].splitlines()] == layers()


def test_every_room_is_in_a_layer() -> None:
    rooms = {room_of(file) for file in ROOT.rglob("*.py")}
    assert rooms - {"taskmux", "__main__"} == set().union(*layers())
