"""Filters: keywords, and which jobs they mean."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from taskmux import DeclarationError, ErrorInfo, JobRecord, State
from taskmux.api.bulk import prepared
from taskmux.api.bulk_verbs import HOLD, PROMOTE, REMOVE, RETRY, UNHOLD
from taskmux.api.filters import FLOW, Filter

JOB = JobRecord(
    queue="mail",
    id="order-7",
    task="mail.send",
    tags=("red", "blue"),
    payload='{"to": "Ann \\"Ä\\" O", "path": "C:\\\\temp"}'.encode(),
    state=State.DEAD,
    created_at=1000,
    finished_at=5000,
    error=ErrorInfo("smtplib.SMTPServerBusy", "mailbox full"),
    reason="out of attempts",
)


@pytest.mark.parametrize(
    ("keywords", "fits"),
    [
        ({}, True),
        ({"state": "dead"}, True),
        ({"state": ["waiting", State.DEAD]}, True),
        ({"state": "waiting"}, False),
        ({"task": "mail.send"}, True),
        ({"task": "mail"}, False),
        ({"tag": "blue"}, True),
        ({"tag": "green"}, False),
        ({"error": "smtplib.SMTPServerBusy"}, True),
        ({"error": "SMTPServerBusy"}, True),
        ({"error": "smtplib"}, False),
        ({"error": "Busy"}, False),
        ({"text": "ORDER-7"}, True),
        ({"text": "Mail.Send"}, True),
        ({"text": "mailbox"}, True),
        ({"text": "out of"}, True),
        ({"text": 'ann "ä"'}, True),
        ({"text": "c:\\temp"}, True),
        ({"text": '"to": "Ann'}, True),
        ({"text": "SMTPServerBusy"}, False),
        ({"text": "blue"}, False),
        ({"ids": ["order-7", "order-8"]}, True),
        ({"ids": "order-8"}, False),
        ({"state": "dead", "tag": "red", "text": "ann"}, True),
        ({"state": "dead", "tag": "red", "text": "bob"}, False),
        ({"state": None, "tag": None}, True),
    ],
)
def test_which_jobs_are_meant(keywords, fits):
    assert Filter.of(**keywords).matches(JOB) is fits


@pytest.mark.parametrize(
    ("since", "until", "fits"),
    [(5000, None, True), (5001, None, False), (None, 5000, True), (None, 4999, False)],
)
def test_a_finished_job_goes_by_its_end(since, until, fits):
    assert Filter(since=since, until=until).matches(JOB) is fits


def test_another_goes_by_its_creation():
    waiting = replace(JOB, state=State.WAITING, finished_at=None)
    assert Filter(until=1000).matches(waiting)
    assert not Filter(since=1001).matches(waiting)


def test_durations_are_counted_from_the_time_of_the_store():
    fixed = Filter.of(since="2s", until="1s").fixed(7000)
    assert (fixed.since, fixed.until) == (5000, 6000)
    assert fixed.fixed(100_000) == fixed
    assert fixed.matches(JOB)


def test_states_are_walked_along_a_jobs_life():
    where = Filter.of(state=["dead", "active", "delayed", "waiting"])
    assert where.states == (State.DELAYED, State.WAITING, State.ACTIVE, State.DEAD)
    assert set(FLOW) == set(State)


def test_arguments_that_are_no_text_are_looked_through_all_the_same():
    assert not Filter.of(text="zebra").matches(replace(JOB, payload=b"\xff\xfe"))


class TestVerbs:
    def test_walk_their_usual_states(self):
        assert prepared(RETRY, Filter.of(tag="red"), everything=False).states == (State.DEAD,)
        assert prepared(PROMOTE, Filter(), everything=True).states == (State.DELAYED,)
        assert State.ACTIVE not in prepared(REMOVE, Filter(), everything=True).states
        assert State.MOVED not in prepared(REMOVE, Filter(), everything=True).states

    def test_walk_the_states_that_are_named(self):
        where = Filter.of(state=["completed", "moved"])
        assert prepared(REMOVE, where, everything=False).states == (State.COMPLETED, State.MOVED)

    def test_a_parent_that_waits_for_its_children_is_not_let_go(self):
        assert prepared(UNHOLD, Filter(), everything=True).cause == "hold"

    @pytest.mark.parametrize("verb", [RETRY, PROMOTE, REMOVE, HOLD, UNHOLD])
    def test_refuse_what_they_can_do_nothing_with(self, verb):
        with pytest.raises(DeclarationError, match=f"{verb.name} can do nothing with active"):
            prepared(verb, Filter.of(state="active"), everything=False)
        with pytest.raises(DeclarationError, match="all=True"):
            prepared(verb, Filter(), everything=False)
