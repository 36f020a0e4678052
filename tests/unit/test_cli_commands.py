"""The commands that find, change and enqueue jobs, in this process, on a file of SQLite."""

from __future__ import annotations

import asyncio
import importlib
import io
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from rich.console import Console
from taskmux import Context, Fail, Taskmux
from taskmux.api.bulk import pages
from taskmux.cli import main
from taskmux.cli.arguments import given
from taskmux.cli.bulk import Course
from taskmux.model.errors import InvalidArguments, StoreUnavailable
from taskmux.model.job import State

MODULES = [
    importlib.import_module(f"taskmux.cli.{name}")
    for name in ("output", "cells", "inspect", "listing", "dead", "jobs")
]
HOSTILE = "bad \x1b[31m \u202e [bold]x[/bold] [link=http://e]y[/link]\n\x9b\x07"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
KINDS = (ValueError, TimeoutError, KeyError)
DEAD = 12


def make(url: str) -> Taskmux:
    mux = Taskmux(url)

    @mux.task(name="charge", queue="billing", max_attempts=1)
    async def charge(order: int, note: str = "") -> None:
        raise KINDS[order % 3](f"order {order} of {order}@example.com failed")

    @mux.task(name="add")
    async def add(a: int, b: int = 1) -> int:
        return a + b

    @mux.task(name="talk")
    async def talk(ctx: Context, lines: list[str]) -> None:
        for line in lines:
            await ctx.log(line)

    @mux.task(name="hostile", queue="odd", max_attempts=1)
    async def hostile() -> None:
        raise Fail(HOSTILE)

    return mux


async def run_all(mux: Taskmux, *queues: str) -> None:
    """Run what waits in these queues."""
    async with mux.worker(queues, concurrency=20):
        for queue in queues:
            while (counts := await mux.queue(queue).counts()).waiting or counts.active:
                await asyncio.sleep(0.01)


class Shell:
    """The command line on one store."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder / 'jobs.db'}"

    def on_app(self, do: Callable[[Taskmux], Any]) -> Any:
        async def call() -> Any:
            mux = make(self.url)
            try:
                return await do(mux)
            finally:
                await mux.close()

        return asyncio.run(call())

    def __call__(self, *args: str, code: int = 0, **more: Any) -> Result:
        done = CliRunner().invoke(main, [*args, "--url", self.url], **more)
        assert done.exit_code == code, done.output
        assert not OBEYED.search(done.output), done.output
        return done

    def json(self, *args: str, code: int = 0) -> list[Any]:
        return [json.loads(line) for line in self(*args, "--json", code=code).stdout.splitlines()]

    def rows(self, *args: str) -> list[list[str]]:
        return [line.split("\t") for line in self(*args).stdout.splitlines()[1:]]

    def counts(self, queue: str = "billing") -> dict[str, int]:
        async def read(mux: Taskmux) -> dict[str, int]:
            counts = await mux.queue(queue).counts()
            return {state: number for state in State if (number := getattr(counts, state))}

        return self.on_app(read)

    def states(self, *ids: str, queue: str = "billing") -> list[str]:
        async def read(mux: Taskmux) -> list[str]:
            return [(await mux.queue(queue).get(one)).state.value for one in ids]

        return self.on_app(read)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    for name in [name for name in os.environ if name.startswith("TASKMUX_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path)


@pytest.fixture
def dead(shell: Shell) -> Shell:
    """Twelve dead jobs, d0 to d11, of three kinds; the even ones have a tag."""

    async def fill(mux: Taskmux) -> None:
        charge = mux.tasks.get("charge")
        for order in range(DEAD):
            tags = ["even"] if order % 2 == 0 else []
            await charge.options(id=f"d{order}", tags=tags).enqueue(order)
        await run_all(mux, "billing")

    shell.on_app(fill)
    return shell


@pytest.fixture
def waiting(shell: Shell) -> Shell:
    """Six waiting jobs, w0 to w5, and four delayed ones, l0 to l3; nothing has run."""

    async def fill(mux: Taskmux) -> None:
        charge = mux.tasks.get("charge")
        for order in range(6):
            await charge.options(id=f"w{order}").enqueue(order, "first" if order == 0 else "")
        for order in range(4):
            await charge.options(id=f"l{order}", delay="1h").enqueue(order)

    shell.on_app(fill)
    return shell


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """A terminal of 80 columns in the place of standard output."""
    said = io.StringIO()
    screen = Console(
        file=said, force_terminal=True, width=80, highlight=False, markup=False, emoji=False,
        color_system=None,
    )  # fmt: skip
    for room in MODULES:
        monkeypatch.setattr(room, "console", screen)
    yield said
    for line in said.getvalue().splitlines():
        assert len(line) <= 80, line
        assert not OBEYED.search(line), line


class TestLists:
    def test_jobs_are_listed_along_a_jobs_life(self, waiting):
        assert [row[0] for row in waiting.rows("job", "ls", "billing")] == [
            *(f"l{n}" for n in range(4)),
            *(f"w{n}" for n in range(6)),
        ]
        newest = waiting.rows("job", "ls", "billing", "--newest")
        assert [row[0] for row in newest][:2] == ["w5", "w4"]

    @pytest.mark.parametrize(
        ("options", "found"),
        [
            (("--error", "ValueError"), "d0 d3 d6 d9"),
            (("--error", "builtins.KeyError"), ""),
            (("--tag", "even", "--error", "KeyError"), "d2 d8"),
            (("--task", "charge", "--id", "d1", "--id", "d4"), "d1 d4"),
            (("--task", "other"), ""),
            (("--text", "ORDER 11 "), "d11"),
            (("--since", "1h"), " ".join(f"d{n}" for n in range(DEAD))),
            (("--until", "1h ago"), ""),
            (("--since", "2020-01-01T00:00Z", "--until", "2020-01-02 10:00:00 UTC"), ""),
        ],
    )
    def test_filters_are_the_same_in_lists_and_verbs(self, dead, options, found):
        wanted = set(found.split())
        listed = dead.json("dead", "ls", "billing", *options)
        assert {one["id"] for one in listed} == wanted
        listed = dead.json("job", "ls", "billing", "--state", "dead,waiting", *options)
        assert {one["id"] for one in listed} == wanted
        for verb in (("job", "retry"), ("job", "rm"), ("dead", "redrive"), ("dead", "purge")):
            (told,) = dead.json(*verb, "billing", "--dry-run", *options)
            assert (told["matched"], told["done"], told["dry_run"]) == (len(wanted), 0, True)
        assert dead.counts() == {"dead": DEAD}

    def test_a_fingerprint_is_a_filter(self, dead):
        mark = dead.rows("dead", "stats", "billing")[1][4]
        assert len(dead.json("dead", "ls", "billing", "--fingerprint", mark)) == 4

    def test_pages_follow_one_another(self, dead):
        met: list[str] = []
        more: tuple[str, ...] = ()
        while True:
            done = dead("dead", "ls", "billing", "--limit", "5", "--json", *more)
            met += [json.loads(line)["id"] for line in done.stdout.splitlines()]
            told = done.stderr.splitlines()
            if not told:
                break
            more = ("--cursor", json.loads(told[0])["cursor"])
        assert met == [f"d{n}" for n in reversed(range(DEAD))]
        told = dead("job", "ls", "billing", "--limit", "5").stderr.splitlines()[-1]
        assert told.startswith("More: the same command with --cursor ")

    def test_nothing_is_found(self, dead):
        assert "No dead jobs in queue other." in dead("dead", "ls", "other").stdout
        assert "No jobs that fit" in dead("job", "ls", "billing", "--tag", "odd").stdout
        assert dead.json("job", "ls", "billing", "--tag", "odd") == []

    def test_a_queue_that_is_not_there_is_told(self, dead):
        unknown = "The store has no queue of that name now"
        assert dead("dead", "ls", "biling").stdout == (
            f"No dead jobs in queue biling. {unknown}: did you mean billing?\n"
        )
        assert f"{unknown}: `taskmux queue ls` lists" in dead("job", "ls", "xyz").stdout
        found = dead("dead", "ls", "billing", "--error", "OSError").stdout
        assert found == "No dead jobs in queue billing.\n"

    def test_a_table_of_queues_breaks_no_word(self, dead, terminal):
        long = "reports.daily.customers"
        dead.on_app(lambda mux: mux.enqueue("t", queue=long))
        dead.on_app(lambda mux: mux.enqueue("t", queue=long, delay="1h"))
        dead.on_app(lambda mux: mux.queue(long).pause())
        dead("queue", "ls")
        said = terminal.getvalue()
        for word in (
            "Queue",
            "Waiting",
            "Delayed",
            "Active",
            "Completed",
            "Dead",
            long,
            "(paused)",
        ):
            assert word in said.split(), said
        assert "Cancelled" not in said  # nothing is

    def test_a_pipe_gets_every_state_of_a_queue(self, dead):
        assert dead("queue", "ls").stdout.splitlines()[0].split("\t")[-1] == "Cancelled"

    def test_a_terminal_of_80_columns_has_a_line_for_each_job(self, dead, terminal):
        dead("job", "ls", "billing")
        dead("dead", "ls", "billing")
        lines = terminal.getvalue().splitlines()
        assert len(lines) == 2 * (3 + DEAD)
        assert lines[0] == "Task charge"  # all have it: once is enough
        assert sum("ValueError: order" in line for line in lines) == 8
        assert sum(line.startswith("d11 ") for line in lines) == 2

    def test_long_names_are_whole_however_narrow_a_terminal_is(self, shell, terminal):
        name = "i" * 200
        shell.on_app(lambda mux: mux.enqueue("a.long.module.of.tasks.charge", id=name))
        shell("job", "ls", "default")
        assert terminal.getvalue().count("i") >= 200

    def test_of_a_long_task_name_a_terminal_shows_the_end(self, shell, terminal):
        shell.on_app(lambda mux: mux.enqueue("a.long.module.of.tasks.charge", id="a"))
        shell("job", "ls", "default")
        assert "\na   …ule.of.tasks.charge  waiting" in terminal.getvalue()

    def test_a_pipe_gets_whole_texts(self, shell):
        name = "i" * 200
        shell.on_app(lambda mux: mux.enqueue("a.long.module.of.tasks.charge", id=name))
        ((job_id, task, *_),) = shell.rows("job", "ls", "default")
        assert (job_id, task) == (name, "a.long.module.of.tasks.charge")


class TestHostileText:
    @pytest.fixture
    def odd(self, shell: Shell) -> Shell:
        async def fill(mux: Taskmux) -> None:
            await mux.tasks.get("hostile").options(id="h").enqueue()
            await mux.enqueue("talk", {"lines": [HOSTILE]}, id="t", queue="odd")
            await run_all(mux, "odd")
            await mux.enqueue("hostile", {}, id="c", queue="odd", delay="1h")
            await mux.job("odd", "c").cancel(reason=HOSTILE)

        shell.on_app(fill)
        return shell

    def commands(self) -> list[tuple[str, ...]]:
        return [
            ("job", "ls", "odd"),
            ("job", "show", "odd", "h"),
            ("job", "logs", "odd", "t"),
            ("dead", "ls", "odd"),
            ("dead", "show", "odd", "h"),
            ("dead", "stats", "odd"),
        ]

    def test_in_a_pipe_and_as_json(self, odd):
        for command in self.commands():
            assert r"\x1b[31m" in odd(*command).stdout or command[1] == "stats"
            for line in odd(*command, "--json").stdout.splitlines():
                assert not OBEYED.search(line)
        assert r"bad \x1b[31m \u202e [bold]x[/bold]" in odd("job", "ls", "odd").stdout
        (letter,) = odd.json("dead", "ls", "odd")
        assert letter["error"]["message"] == HOSTILE

    def test_on_a_terminal(self, odd, terminal):
        for command in self.commands():
            odd(*command)
        assert "[bold]" in terminal.getvalue()

    def test_in_what_was_typed(self, shell):
        for wrong in (("job", "ls", HOSTILE), ("job", "rm", "odd", HOSTILE)):
            assert r"\x1b[31m" in shell(*wrong, code=2).stderr


class TestStatistics:
    def test_groups_and_the_matrix(self, dead):
        lines = dead("dead", "stats", "billing").stdout.splitlines()
        assert lines[0] == "12 dead jobs in queue billing"
        assert lines[1].split("\t") == ["Count", "Task", "Error", "Message", "Fingerprint", "Last"]
        groups = [line.split("\t") for line in lines[2:5]]
        assert {group[2] for group in groups} == {"ValueError", "TimeoutError", "KeyError"}
        assert all(group[:2] == ["4", "charge"] for group in groups)
        assert groups[0][3].endswith("order <number> of <email> failed")
        assert lines[6].split("\t") == ["Error", "1h", "3h", "24h", "3d", "7d", "all"]
        assert [line.split("\t")[1:] for line in lines[7:]] == [["4"] * 6] * 3

    def test_as_json_and_for_some(self, dead):
        done = dead("dead", "stats", "billing", "--tag", "even", "--json")
        told = json.loads(done.stdout)
        assert (told["total"], len(told["groups"])) == (6, 3)
        assert dead("dead", "stats", "other").stdout == "No dead jobs in queue other.\n"

    def test_on_a_terminal(self, dead, terminal):
        dead("dead", "stats", "billing")
        assert "ValueError: order <number>" in terminal.getvalue()


class TestDeadLetters:
    def test_redrive_by_filter_and_by_id(self, dead):
        assert dead("dead", "redrive", "billing", "--error", "KeyError").stdout == (
            "Redrove 4 jobs of queue billing.\n"
        )
        (told,) = dead.json("dead", "redrive", "billing", "d0", "d1", "--keep-attempts")
        assert told == {
            "queue": "billing", "verb": "redrive", "dry_run": False,
            "matched": 2, "done": 2, "requested": 0, "skipped": {},
        }  # fmt: skip
        assert dead.counts() == {"dead": 6, "waiting": 6}
        assert dead("job", "show", "billing", "d0").stdout.count("Attempts: 0 of 1") == 0
        assert "Attempts: 0 of 1" in dead("job", "show", "billing", "d2").stdout

    def test_redrive_with_a_rate_a_limit_and_all(self, dead):
        dead("dead", "redrive", "billing", "--all", "--limit", "3", "--rate", "1/h")
        assert dead.counts() == {"dead": 9, "waiting": 1, "delayed": 2}
        dead("dead", "redrive", "billing", "--all")
        assert dead.counts() == {"waiting": 10, "delayed": 2}

    def test_purge(self, dead):
        assert "Purged 6 jobs" in dead("dead", "purge", "billing", "--tag", "even").stdout
        assert dead.counts() == {"dead": 6}

    def test_one_is_shown(self, dead):
        shown = dead("dead", "show", "billing", "d3").stdout
        assert "ValueError: order 3" in shown
        assert "Traceback" in shown
        assert "taskmux dead redrive billing d3" in shown
        assert dead("dead", "show", "billing", "d3", "--json").stdout.startswith("{")
        dead("dead", "redrive", "billing", "d3")
        assert "is waiting, not dead" in dead("dead", "show", "billing", "d3", code=4).stderr
        dead("dead", "show", "billing", "nobody", code=4)


class TestVerbs:
    def test_single_jobs(self, waiting):
        assert waiting("job", "hold", "billing", "w0", "w1").stdout.splitlines() == [
            "Held billing/w0",
            "Held billing/w1",
        ]
        waiting("job", "unhold", "billing", "w0")
        waiting("job", "promote", "billing", "l0")
        waiting("job", "cancel", "billing", "w2", "--reason", "by mistake", "--wait", "1s")
        waiting("job", "rm", "billing", "w3")
        assert waiting.states("w0", "w1", "w2", "l0") == [
            "waiting", "blocked", "cancelled", "waiting",
        ]  # fmt: skip
        assert "cancelled: by mistake" in waiting("job", "show", "billing", "w2").stdout
        waiting("job", "retry", "billing", "w2")
        assert waiting.counts() == {"waiting": 5, "blocked": 1, "delayed": 3}

    def test_one_that_fails_does_not_keep_the_others(self, waiting):
        told = waiting.json("job", "promote", "billing", "w0", "nobody", "l1", code=1)
        assert [one["done"] for one in told] == [False, False, True]
        assert [one.get("error") for one in told] == ["JobConflict", "JobNotFound", None]
        assert waiting.states("l1") == ["waiting"]
        assert "There is no job" in waiting("job", "rm", "billing", "nobody", code=4).stderr

    def test_an_id_that_is_given_twice_is_one_job(self, waiting):
        (told,) = waiting.json("job", "promote", "billing", "l1", "l1")
        assert (told["id"], told["done"]) == ("l1", True)

    def test_ids_of_no_dead_job_are_told(self, dead):
        done = dead("dead", "redrive", "billing", "d0", "nosuch", code=4)
        assert "Redrove 1 job" in done.stdout
        assert "1 id of no dead job in queue billing" in done.stderr
        assert "2 ids of no dead job" in dead("dead", "purge", "billing", "x", "y", code=4).stderr

    def test_a_queue_that_nobody_knows_is_told(self, waiting):
        assert "This is for jobs" not in waiting("queue", "pause", "billing").stderr
        told = waiting("queue", "pause", "biling").stderr
        assert "no queue of that name now: did you mean billing?" in told

    def test_by_filter(self, waiting):
        assert "Held 10 jobs" in waiting("job", "hold", "billing", "--all").stdout
        assert "Let go 10 jobs" in waiting("job", "unhold", "billing", "--all").stdout
        waiting("job", "hold", "billing", "--id", "w0")
        waiting("job", "cancel", "billing", "--text", "first", "--reason", "all", "--limit", "1")
        assert waiting.states("w0") == ["cancelled"]
        assert (
            "Would remove 1 job of"
            in waiting("job", "rm", "billing", "--state", "cancelled", "--dry-run").stdout
        )
        assert waiting.counts() == {"waiting": 5, "delayed": 4, "cancelled": 1}

    def test_what_is_skipped_is_told(self, shell):
        async def fill(mux: Taskmux) -> None:
            await mux.enqueue("add", {"a": 1}, id="a", dedup="k")

        shell.on_app(fill)
        shell("job", "cancel", "default", "a")
        shell.on_app(fill_again)
        done = shell("job", "retry", "default", "--state", "cancelled")
        assert "Retried 0 jobs" in done.stdout
        assert "Skipped 1 job: another unfinished job owns" in done.stdout

    @pytest.mark.parametrize(
        ("command", "words"),
        [
            ("job retry billing", "--all"),
            ("job rm billing", "--state"),
            ("dead redrive billing", "--all"),
            ("dead purge billing --dry-run", "--all"),
            ("job rm billing w0 --all", "ids or filters, not both"),
            ("job rm billing w0 --tag x", "ids or filters, not both"),
            ("job cancel billing --all --wait 1s", "--wait goes with ids"),
            ("job cancel billing w0 --wait soon", "'soon' is not a duration"),
            ("job cancel billing --all --reason=", "reason"),
            ("job promote billing --state dead", "can do nothing with dead"),
            ("job ls billing --state nosuch", "There is no state 'nosuch'"),
            ("job ls billing --since yesterday", "'yesterday' is not a duration"),
            ("job ls billing --since 2026-01-01", "2026-01-01T00:00:00Z"),
            ("job ls billing --since 1h --until 2h", "later than"),
            ("job ls billing --cursor wrong", "no cursor"),
            ("job ls billing --limit 0", "--limit"),
            ("job ls a%b", "queue name"),
            ("job ls billing --tag a%b", "is not a tag"),
            ("dead redrive billing --all --rate fast", "fast"),
            ("dead redrive billing d1 --id d2", "not both"),
            ("dead ls billing --state dead", "No such option"),
            ("queue clean billing --older-than soon -y", "'soon' is not a duration"),
            ("queue clean billing --older-than 1d --state active -y", "active"),
            ("queue drain a%b -y", "queue name"),
            ("enqueue add 1", "Write name=value"),
            ("enqueue add a=1 --run-at soon", "no instant"),
            ("enqueue add a=1 --run-at 2030-01-01T00:00Z --delay 1s", "exclude each other"),
            ("enqueue add a=1 --priority hot", "hot"),
            ("enqueue add a=1 --header x", "Write name=text"),
            ("enqueue add a=1 --wait soon", "'soon' is not a duration"),
            ("job edit billing w0", "Nothing to change"),
            ("job edit billing w0 a=1 --arguments {}", "not both"),
            ("job list billing", "Did you mean"),
        ],
    )
    def test_bad_input_ends_with_2_and_changes_nothing(self, waiting, command, words):
        done = waiting(*(word.replace("%", " ") for word in command.split()), code=2)
        assert done.stdout == ""
        assert words in " ".join(done.stderr.split())
        assert waiting.counts() == {"waiting": 6, "delayed": 4}

    @pytest.mark.parametrize(
        "command",
        [
            ("job", "ls", "billing", "--state", "nosuch"),
            ("job", "ls", "billing", "--cursor", "wrong"),
            ("dead", "redrive", "billing"),
            ("enqueue", "add", "a=1", "--priority", "hot"),
            ("job", "edit", "billing", "w0", "--arguments", "[]"),
        ],
    )
    def test_bad_input_is_told_before_the_network(self, command):
        nowhere = "redis://127.0.0.1:1"
        done = CliRunner().invoke(main, [*command, "--url", nowhere])
        assert done.exit_code == 2, done.output
        if command[0] == "job" and "wrong" not in command:
            assert "Store: " not in done.stderr  # not even an app was looked for


async def fill_again(mux: Taskmux) -> None:
    await mux.enqueue("add", {"a": 1}, id="b", dedup="k")


class TestInterrupts:
    @pytest.mark.parametrize("limit", [None, 9])
    def test_ctrl_c_says_how_far_it_came_and_the_same_command_goes_on(
        self, dead, monkeypatch, limit
    ):
        told = Course.__call__

        def interrupt(self: Course, done: int, total: int | None) -> None:
            told(self, done, total)
            os.kill(os.getpid(), signal.SIGINT)

        more = () if limit is None else ("--limit", str(limit))
        command = ("dead", "redrive", "billing", "--all", *more)
        small_batches(monkeypatch)
        with monkeypatch.context() as patch:
            patch.setattr(Course, "__call__", interrupt)
            done = dead(*command, code=130)
        assert "Interrupted: at least 4 of" in done.stderr
        assert "The same command goes on" in done.stderr
        assert ("--limit 5" in done.stderr) == (limit is not None)
        assert dead.counts()["waiting"] >= 4
        assert dead.counts()["dead"] > 0
        dead("dead", "redrive", "billing", "--all")
        assert dead.counts() == {"waiting": DEAD}

    def test_a_store_that_goes_away_midway(self, dead, monkeypatch):
        told = Course.__call__

        def fail(self: Course, done: int, total: int | None) -> None:
            told(self, done, total)
            raise StoreUnavailable("It is gone.")

        small_batches(monkeypatch)
        with monkeypatch.context() as patch:
            patch.setattr(Course, "__call__", fail)
            done = dead("dead", "redrive", "billing", "--all", code=3)
        assert "StoreUnavailable: It is gone." in done.stderr
        assert "at least 4 of 12 jobs were dealt with" in done.stderr
        assert dead.counts() == {"dead": DEAD - 4, "waiting": 4}

    def test_while_counting(self, dead, monkeypatch):
        def interrupt(self: Course, done: int, total: int | None) -> None:
            os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(Course, "__call__", interrupt)
        assert "Interrupted." in dead("dead", "stats", "billing", code=130).stderr


def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a batch be of four jobs."""

    def four(*args: Any, **kwargs: Any) -> Any:
        return pages(*args, **(kwargs | {"size": 4}))

    monkeypatch.setattr("taskmux.api.bulk.pages", four)


class TestEmptying:
    def test_somebody_must_say_that_it_is_meant(self, waiting):
        for command in (("drain",), ("clean", "--older-than", "1s"), ("obliterate",)):
            done = waiting("queue", command[0], "billing", *command[1:], code=2)
            assert "say --yes" in done.stderr
        assert waiting.counts() == {"waiting": 6, "delayed": 4}

    @pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("", 1)])
    def test_on_a_terminal_it_is_asked(self, waiting, monkeypatch, answer, code):
        monkeypatch.setattr("taskmux.cli.emptying._can_ask", lambda: True)
        done = waiting("queue", "drain", "billing", input=answer, code=code)
        assert "removes every waiting job of queue billing. Go on?" in done.stderr
        assert waiting.counts().get("waiting", 0) == (0 if code == 0 else 6)

    def test_drain(self, waiting):
        assert "Removed 6 jobs" in waiting("queue", "drain", "billing", "--yes").stdout
        waiting("queue", "drain", "billing", "-y", "--delayed")
        assert waiting.counts() == {}

    def test_clean(self, dead):
        dead("queue", "clean", "billing", "--older-than", "1h", "-y")
        assert dead.counts() == {"dead": DEAD}
        dead("queue", "clean", "billing", "--older-than", "0s", "--limit", "5", "-y")
        assert dead.counts() == {"dead": DEAD - 5}
        dead("queue", "clean", "billing", "--older-than", "0s", "--state", "completed", "-y")
        assert dead.counts() == {"dead": DEAD - 5}
        (told,) = dead.json("queue", "clean", "billing", "--older-than", "0s", "-y")
        assert (told["done"], dead.counts()) == (DEAD - 5, {})

    def test_obliterate(self, waiting):
        async def claim(mux: Taskmux) -> None:
            started = asyncio.Event()

            @mux.task(name="hang", queue="billing")
            async def hang() -> None:
                started.set()
                await asyncio.Event().wait()

            await mux.enqueue("hang", {}, priority=0)
            async with mux.worker(["billing"], concurrency=1, drain=0):
                await started.wait()
                done = await asyncio.to_thread(
                    CliRunner().invoke,
                    main,
                    ["queue", "obliterate", "billing", "-y", "--url", waiting.url],
                )
                assert done.exit_code == 1, done.output
                assert "JobConflict" in done.stderr

        waiting.on_app(claim)
        waiting("queue", "obliterate", "billing", "-y", "--force")
        assert waiting.counts() == {}


class TestEnqueue:
    def test_options_travel(self, shell):
        ((ref),) = shell(
            "enqueue", "report", "year=2026", "name=Ada", 'tags=["a"]', 'zip="01234"',
            "--queue", "q", "--id", "r1", "--delay", "1h", "--priority", "high", "--tag", "a",
            "--tag", "b", "--header", "trace=1=2", "--group", "acme", "--dedup", "k",
            "--max-attempts", "7", "--timeout", "30s", "--lifo",
        ).stdout.splitlines()  # fmt: skip
        assert ref == "q/r1"
        job = json.loads(shell("job", "show", "q", "r1", "--json").stdout)
        assert job["payload"] == {"year": 2026, "name": "Ada", "tags": ["a"], "zip": "01234"}
        assert (job["state"], job["priority"], job["tags"]) == ("delayed", 50, ["a", "b"])
        assert (job["headers"], job["group"]) == ({"trace": "1=2"}, "acme")
        assert job["dedup"]["key"] == "k"
        assert (job["policy"]["max_attempts"], job["policy"]["timeout_ms"]) == (7, 30_000)
        assert job["lifo"] is True

    def test_at_an_instant_and_by_a_number(self, shell):
        shell("enqueue", "add", "--id", "a", "--run-at", "2100-01-01 00:00:00 UTC")
        shell("enqueue", "add", "--id", "b", "--priority", "7")
        a, b = (json.loads(shell("job", "show", "default", one, "--json").stdout) for one in "ab")
        assert (a["run_at"], b["priority"]) == (4_102_444_800_000, 7)

    def test_all_arguments_at_once(self, shell):
        shell("enqueue", "add", "--id", "a", "--arguments", '{"a": {"b": [1]}}')
        shell("enqueue", "add", "--id", "b", "--arguments", "-", input='{"a": 2}')
        for one, arguments in (("a", {"a": {"b": [1]}}), ("b", {"a": 2})):
            job = json.loads(shell("job", "show", "default", one, "--json").stdout)
            assert job["payload"] == arguments

    def test_a_duplicate_is_told(self, shell):
        shell("enqueue", "add", "a=1", "--id", "x")
        again = shell("enqueue", "add", "a=1", "--id", "x")
        assert again.stdout == "default/x\n"
        assert "nothing was enqueued" in again.stderr
        assert shell.json("enqueue", "add", "a=1", "--id", "x") == [
            {"queue": "default", "id": "x", "status": "duplicate"}
        ]

    def test_it_waits_for_a_result(self, shell):
        async def serve(mux: Taskmux) -> list[Result]:
            command = ["enqueue", "add", "a=40", "b=2", "--wait", "30s", "--url", shell.url]
            async with mux.worker(["default"]):
                return [
                    await asyncio.to_thread(CliRunner().invoke, main, [*command, *form])
                    for form in ((), ("--json",))
                ]

        plain, as_json = shell.on_app(serve)
        assert plain.stdout.splitlines()[1] == "42"
        assert json.loads(as_json.stdout)["result"] == 42
        shell("enqueue", "add", "a=1", "--wait", "10ms", code=1)

    @pytest.fixture
    def app(self, shell: Shell, tmp_path: Path) -> tuple[str, ...]:
        (tmp_path / "some_app.py").write_text(
            f"from taskmux import Taskmux\nmux = Taskmux({shell.url!r})\n"
            "@mux.task(name='greet', queue='mail')\n"
            "async def greet(name: str, times: int = 1) -> None: ...\n"
        )
        return "--app", "some_app:mux"

    def test_a_known_task_is_checked(self, shell, app):
        assert shell("enqueue", "greet", "name=Ada", *app).stdout.startswith("mail/")
        wrong = shell("enqueue", "greet", "name=42", *app, code=2)
        assert "name='\"42\"'" in wrong.stderr
        assert shell("enqueue", "greet", "times=x", *app, code=2).stdout == ""
        assert "Did you mean greet?" in shell("enqueue", "gret", *app).stderr
        assert shell.counts("mail") == {"waiting": 1}

    def test_an_edit_of_a_known_task_is_checked(self, shell, app):
        shell("enqueue", "greet", "name=Ada", "--id", "g", *app)
        shell("job", "edit", "mail", "g", "times=x", *app, code=2)
        shell("job", "edit", "mail", "g", "times=3", *app)
        job = json.loads(shell("job", "show", "mail", "g", "--json").stdout)
        assert job["payload"] == {"name": "Ada", "times": 3}


class TestArguments:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("42", 42), ("4.5", 4.5), ("true", True), ("null", None), ('"42"', "42"),
            ("[1, 2]", [1, 2]), ("", ""), ("a=b", "a=b"), ("007", "007"), ("NaN", "NaN"),
            ("-Infinity", "-Infinity"), ("{", "{"), ("[" * 10_000, "[" * 10_000),
            ("9" * 5000, "9" * 5000),
        ],
    )  # fmt: skip
    def test_values(self, text, value):
        assert given([f"x={text}"], None) == {"x": value}

    @pytest.mark.parametrize("pairs", [["x"], ["=1"], ["a b=1"], ["1a=1"], ["a=1", "a=2"]])
    def test_what_is_none(self, pairs):
        with pytest.raises(InvalidArguments):
            given(pairs, None)

    @pytest.mark.parametrize("whole", ["[1]", "{", "NaN", "1", '{"a": NaN}', "[" * 10_000])
    def test_what_is_no_object(self, whole):
        with pytest.raises(InvalidArguments):
            given([], whole)


class TestSingleJobs:
    def test_edit(self, waiting):
        waiting("job", "edit", "billing", "w0", "note=other")
        job = json.loads(waiting("job", "show", "billing", "w0", "--json").stdout)
        assert job["payload"] == {"order": 0, "note": "other"}
        (told,) = waiting.json("job", "edit", "billing", "w0", "--arguments", '{"order": 9}')
        assert told["arguments"] == {"order": 9}
        waiting("job", "edit", "billing", "nobody", "a=1", code=4)

    def test_logs(self, shell):
        async def fill(mux: Taskmux) -> None:
            await mux.enqueue("talk", {"lines": ["one", "two"]}, id="t")
            await run_all(mux, "default")

        shell.on_app(fill)
        assert shell("job", "logs", "default", "t").stdout == "one\ntwo\n"
        assert shell("job", "logs", "default", "t", "--follow").stdout == "one\ntwo\n"
        assert shell.json("job", "logs", "default", "t") == [{"line": "one"}, {"line": "two"}]
        shell("enqueue", "talk", "--id", "u")
        assert "has logged nothing" in shell("job", "logs", "default", "u").stderr
        shell("job", "logs", "default", "nobody", code=4)


class TestQueues:
    def test_a_queue_that_nobody_serves_is_told(self, waiting):
        assert "No live worker serves billing, where 6 jobs wait." in waiting("queue", "ls").stderr
        (row,) = waiting.json("queue", "ls")
        assert (row["workers"], row["counts"]["waiting"]) == (0, 6)

    def test_one_that_is_served_is_not(self, waiting):
        async def serve(mux: Taskmux) -> Result:
            waiting_for = ["queue", "ls", "--url", waiting.url]
            await mux.queue("billing").pause()
            async with mux.worker(["billing"]):
                while not await mux.workers():
                    await asyncio.sleep(0.01)
                return await asyncio.to_thread(CliRunner().invoke, main, waiting_for)

        assert "No live worker" not in waiting.on_app(serve).stderr


def test_every_command_has_a_sentence_and_every_option_help():
    def walk(command: click.Command, path: str) -> Iterator[str]:
        if isinstance(command, click.Group):
            for name, one in command.commands.items():
                yield from walk(one, f"{path} {name}")
        if not command.help:
            yield path
        for option in command.params:
            if isinstance(option, click.Option) and not option.help:
                yield f"{path} {option.opts}"

    assert list(walk(main, "taskmux")) == []
