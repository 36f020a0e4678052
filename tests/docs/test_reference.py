"""docs/reference.md names every public verb there is, and none that is not."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import msgspec
import pytest
import taskmux
from taskmux import Context, JobRecord, Taskmux

PAGE = (Path(__file__).parents[2] / "docs" / "reference.md").read_text(encoding="utf-8")
MUX = Taskmux("memory://")
TASK = MUX.task(name="t")(lambda: None)
QUEUE = MUX.queue("q")

ASYNC = {
    "mux": MUX,
    "send": TASK,
    "job": QUEUE.job("1"),
    "queue": QUEUE,
    "queue.dead": QUEUE.dead,
    "record": JobRecord(queue="q", id="1", task="t"),
    "ctx": Context.detached(),
    "worker": MUX.worker(["q"]),
}
"""What the page has a table of, by the name that it has there."""

BLOCKING = {
    "mux.blocking": MUX.blocking,
    "send.blocking": TASK.blocking,
    "job.blocking": QUEUE.job("1").blocking,
    "queue.blocking": QUEUE.blocking,
    "queue.blocking.dead": QUEUE.blocking.dead,
    "ctx.blocking": Context.detached().blocking,
}


def public(thing: object) -> set[str]:
    own = set(dir(thing)) if not isinstance(thing, msgspec.Struct) else set(dir(type(thing)))
    return {name for name in own if not name.startswith("_")}


def rows() -> list[list[str]]:
    """Return the code of the first cell of each row."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| `")]
    return [re.findall(r"`(?:async with )?([^`]+)`", line.split(" | ")[0]) for line in lines]


def named(subject: str) -> set[str]:
    """Return the verbs that the tables name of a subject: `queue.dead.find(...)` is the dead's."""
    found = [re.match(r"([a-z_.]+)\.([a-z_]+)(\(|$)", code) for row in rows() for code in row]
    return {one[2] for one in found if one is not None and one[1] == subject}


@pytest.mark.parametrize("subject", ASYNC)
def test_every_verb_is_there_and_no_other(subject):
    # `Context.detached` is a row of its own: it is called on the class
    said = named(subject) | ({"detached"} if subject == "ctx" else set())
    assert said == public(ASYNC[subject])


def test_a_context_is_made_as_the_page_says():
    assert "`Context.detached(" in PAGE


def has(subject: str) -> tuple[str, set[str]]:
    """Return what the page says of a blocking twin: the words after `has`, and the code in them."""
    paragraph = re.search(rf"^`{re.escape(subject)}` has (.*?)\n\n", PAGE, re.DOTALL | re.MULTILINE)
    sentence = paragraph[1].split(". ")[0]
    but = re.findall(r", but `(\w+)`:", sentence)
    return sentence, set(re.findall(r"`(\w+)`", sentence)) - set(but)


@pytest.mark.parametrize(
    "subject", ["mux.blocking", "send.blocking", "job.blocking"], ids=lambda one: one
)
def test_what_a_blocking_twin_has(subject):
    assert has(subject)[1] == public(BLOCKING[subject])


@pytest.mark.parametrize(
    ("subject", "twin"), [("queue", "queue.blocking"), ("queue.dead", "queue.blocking.dead")]
)
def test_a_queue_has_every_verb_but_those_named_as_blocking_ones(subject, twin):
    sentence, missing = has(twin)
    assert sentence.startswith("every one of them but")
    assert public(BLOCKING[twin]) == public(ASYNC[subject]) - missing


def test_what_a_sync_handler_has():
    row = next(line for line in PAGE.splitlines() if line.startswith("| `ctx.blocking`"))
    assert set(re.findall(r"`(\w+)`", row)) == public(BLOCKING["ctx.blocking"])


@pytest.mark.parametrize("subject", BLOCKING)
def test_a_blocking_verb_has_an_async_namesake(subject):
    twin = subject.replace(".blocking", "")
    assert public(BLOCKING[subject]) <= public(ASYNC[twin])


def test_the_parameters_that_are_named_exist():
    wrong = []
    for row in rows():
        for code in row:
            call = re.match(r"([a-z_.]+)\.([a-z_]+)\((.*)\)$", code)
            if call is None or call[1] not in ASYNC:
                continue
            verb = getattr(ASYNC[call[1]], call[2])
            known = set(inspect.signature(verb).parameters)
            said = re.findall(r"(\w+)=", call[3])
            wrong += [f"{code}: {name}" for name in said if name not in known]
    assert wrong == []


def test_it_says_which_verbs_are_awaited():
    wrong = []
    for line in PAGE.splitlines():
        if line.startswith("| `record."):
            continue
        head, _, rest = line.partition(" | ")
        for subject, verb in re.findall(r"`([a-z_.]+)\.([a-z_]+)(?=[(`])", head):
            if not line.startswith("| `") or subject not in ASYNC:
                continue
            it = inspect.getattr_static(type(ASYNC[subject]), verb, None)
            awaited = inspect.iscoroutinefunction(it) or inspect.isasyncgenfunction(it)
            at_once = rest.startswith(("at once:", "blocks:"))
            notes = subject == "ctx" and verb in {"progress", "log"}  # either way: see below it
            if awaited == at_once and not notes:
                wrong.append(f"{subject}.{verb}")
    assert wrong == []


def test_the_errors_that_are_named_exist():
    raised = {
        name
        for line in PAGE.splitlines()
        if line.startswith("| `") and line.count(" | ") == 2
        for name in re.findall(r"`([A-Z]\w+)`", line.rsplit(" | ", 1)[1])
    }
    assert len(raised) > 15
    assert all(issubclass(getattr(taskmux, name), taskmux.TaskmuxError) for name in raised)


def test_states_of_a_handle():
    row = next(line for line in PAGE.splitlines() if line.startswith("| `job.status()`"))
    states = {state.value for state in taskmux.State}
    assert set(re.findall(r"`([a-z]+)`", row)) == states - {"moved"}


def test_what_the_page_for_newcomers_calls_missing_is_missing():
    page = (Path(__file__).parents[2] / "docs" / "coming-from.md").read_text(encoding="utf-8")
    missing = page.partition("**Not there yet.**")[2]
    assert "periodic tasks" in missing
    assert "chord" in missing
    assert {"schedule", "flow"} & set(dir(Taskmux)) == set()
