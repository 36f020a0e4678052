"""docs/options.md names every option there is, with the default that holds."""

import ast
import inspect
import re
from pathlib import Path

import msgspec
import pytest
from taskmux import Context, JobOptions, Limits, Retention, Taskmux
from taskmux.api.call import ENQUEUE_TIMEOUT_MS
from taskmux.cli import main
from taskmux.config import Settings
from taskmux.model.backoff import DEFAULT_BACKOFF, Exponential
from taskmux.model.job import JobRecord, Keep, Policy
from taskmux.model.units import milliseconds

PAGE = (Path(__file__).parents[2] / "docs" / "options.md").read_text(encoding="utf-8")


def table(head: str) -> dict[str, str]:
    """Return names and defaults of the table whose first heading is `head`."""
    found = re.search(rf"^\| {head} \| default \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    rows = [row.strip("|").split(" | ") for row in found[1].splitlines()]
    return {row[0].strip().strip("`"): row[1].strip() for row in rows}


def value(text: str):
    return ast.literal_eval(text.strip("`"))


class TestJobs:
    def test_every_option_is_there_and_no_other(self):
        assert sorted(table("option")) == sorted(JobOptions.__annotations__)

    @pytest.mark.parametrize("name", ["max_attempts", "max_crashes", "keep_result"])
    def test_what_goes_with_a_job(self, name):
        assert value(table("option")[name]) == getattr(Policy(), name)

    @pytest.mark.parametrize("name", ["priority", "lifo", "tags", "headers", "group", "dedup"])
    def test_what_a_record_has(self, name):
        assert value(table("option")[name]) == getattr(JobRecord(queue="q", id="i", task="t"), name)

    def test_the_queue_the_timeout_and_the_due_time(self):
        said = table("option")
        assert value(said["queue"]) == Taskmux("memory://").task()(lambda: None).queue
        assert value(said["timeout"]) is Policy().timeout_ms is None
        assert value(said["delay"]) is value(said["run_at"]) is None

    def test_how_long_enqueueing_waits(self):
        assert milliseconds(value(table("option")["enqueue_timeout"])) == ENQUEUE_TIMEOUT_MS

    def test_backoff(self):
        assert 'Exponential("20s", factor=5, cap="10m", jitter=0.5)' in PAGE
        assert Exponential("20s", factor=5, cap="10m", jitter=0.5) == DEFAULT_BACKOFF

    def test_retention(self):
        said = table("state")
        assert set(said) == {name for name in Retention.__annotations__ if "_" not in name}
        for state, age in said.items():
            assert getattr(Policy(), state) == Keep(milliseconds(value(age)), None)


def test_limits():
    assert {name: value(text) for name, text in table("limit").items()} == msgspec.structs.asdict(
        Limits()
    )


def test_settings_and_their_flags():
    said = {name: value(text) for name, text in table("setting").items()}
    assert said == msgspec.structs.asdict(Settings())
    worker = main.commands["worker"].commands["run"]
    flags = {option for one in worker.params for option in one.opts if option.startswith("-")}
    assert [flag for flag in sorted(flags) if f"`{flag}`" not in PAGE] == []


@pytest.mark.parametrize(
    ("function", "part"),
    [(Taskmux.__init__, "`Taskmux(url, ...)`"), (Taskmux.worker, "`mux.worker(...)`")],
)
def test_arguments(function, part):
    rows = re.search(re.escape(part) + r":\n\n\| argument .*\n\|[-|]+\n((?:\|.*\n)+)", PAGE)[
        1
    ].splitlines()
    said = {row.split("|")[1].strip(" `"): value(row.split("|")[2].strip()) for row in rows}
    parameters = list(inspect.signature(function).parameters.values())[1:]
    assert said == {one.name: one.default for one in parameters}


def test_a_handlers_context():
    names = set(re.findall(r"`(?:await )?ctx\.(\w+)", PAGE))
    public = {name for name in dir(Context) if not name.startswith("_")} | {"state", "job"}
    assert names <= public
    internal = {"ask_to_cancel", "detached"}
    assert {name for name in vars(Context) if not name.startswith("_")} - names == internal
