"""The commands on the page of the command line run, top to bottom, and the page names them all."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from taskmux.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```(python|console)\n(.*?)```", re.DOTALL)

DIE = """
import asyncio, app
async def main():
    await app.charge.options(id="order-9").enqueue(9)
    async with app.mux.worker(["billing"]):
        while (counts := await app.mux.queue("billing").counts()).waiting or counts.active:
            await asyncio.sleep(0.01)
    await app.mux.close()
asyncio.run(main())
"""


def typed() -> list[list[str]]:
    consoles = [text for kind, text in BLOCK.findall(PAGE) if kind == "console"]
    lines = [line for text in consoles for line in text.splitlines()]
    assert all(line.startswith("$ taskmux ") for line in lines)
    return [shlex.split(line)[2:] for line in lines]


def leaves(group: click.Group, *path: str) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= leaves(command, *path, name)
        else:
            found.add((*path, name))
    return found


def test_commands_run_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TASKMUX_URL", f"sqlite:///{tmp_path / 'docs.db'}")
    monkeypatch.setenv("TASKMUX_APP", "app:mux")
    (tmp_path / "app.py").write_text(BLOCK.search(PAGE)[2])

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "app", raising=False)
    said: dict[str, str] = {}
    for command in typed():
        if command[:2] == ["dead", "stats"]:
            subprocess.run([sys.executable, "-c", DIE], check=True, timeout=60)
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, (command, done.output)
        said[" ".join(command[:2])] = done.stdout
    monkeypatch.delitem(sys.modules, "app")
    assert said["dead stats"].startswith("2 dead jobs in queue billing")
    assert said["dead redrive"] == "Redrove 1 job of queue billing.\n"


def test_the_page_shows_every_command_that_acts() -> None:
    elsewhere = {("demo",), ("drivers",), ("events",), ("queue", "reset")}
    shown = {tuple(command[:depth]) for command in typed() for depth in (1, 2)}
    missing = {leaf for leaf in leaves(main) if leaf[0] != "worker"} - shown - elsewhere
    assert missing == set()


def test_the_page_names_every_option_of_a_filter_and_of_enqueue() -> None:
    job, enqueue = main.commands["job"], main.commands["enqueue"]
    assert isinstance(job, click.Group)
    common = {"--url", "--app", "--json"}
    for command in (job.commands["ls"], job.commands["cancel"], enqueue):
        options = {option for one in command.params for option in one.opts if option[:2] == "--"}
        assert {option for option in options - common if option not in PAGE} == set()
