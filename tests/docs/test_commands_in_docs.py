"""The commands on the page of the command line run, top to bottom, and the page names them all."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from taskmux import Event, Explanation, JobRecord, Reason, WorkerInfo
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


def fields(row: str) -> set[str]:
    """Return the fields that the page names in a row of its table of JSON objects."""
    (text,) = re.findall(rf"^\| {re.escape(row)} \| (.*) \|$", PAGE, re.MULTILINE)
    return set(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", text)))


SHAPES = {
    "`queue ls`": "queue ls",
    "`queue show`": "queue show billing",
    "`queue pause`, `queue resume`, `queue limit`, `queue reset`": "queue limit billing --rate 1/s",
    "`job edit`": "job edit billing one order=2",
    "a verb on ids, each": "job hold billing one nobody",
    "a verb on a filter; `queue drain`, `clean`, `obliterate`": "job unhold billing --all",
    "`dead stats`": "dead stats billing",
    "`enqueue`": "enqueue charge order=3",
    "`drivers`": "drivers",
}


@pytest.mark.parametrize("row", SHAPES)
def test_json_has_the_fields_that_the_page_says(
    row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = [] if row == "`drivers`" else ["--url", f"sqlite:///{tmp_path / 'docs.db'}"]
    monkeypatch.chdir(tmp_path)
    put = ["enqueue", "charge", "order=1", "--queue", "billing", "--id", "one"]
    assert (
        CliRunner().invoke(main, [*put, "--url", f"sqlite:///{tmp_path / 'docs.db'}"]).exit_code
        == 0
    )
    printed = CliRunner().invoke(main, [*SHAPES[row].split(), *at, "--json"]).stdout
    try:
        found = [json.loads(printed)]
    except ValueError:
        found = [json.loads(line) for line in printed.splitlines()]
    last = {"result"} if row == "`enqueue`" else set()  # of --wait
    assert {name for one in found for name in one} == fields(row) - last


def test_json_of_jobs_explanations_and_workers() -> None:
    assert fields("`worker ls`") == set(WorkerInfo.__struct_fields__)
    assert fields("`events`") == set(Event.__struct_fields__)
    said = fields("`job explain`")
    assert said == {*Explanation.__struct_fields__, *Reason.__struct_fields__}
    row = "`job ls`, `dead ls`, `job show`, `dead show`"
    assert fields(row) <= set(JobRecord.__struct_fields__)
