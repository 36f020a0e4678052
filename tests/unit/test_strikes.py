from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace
from taskmux import Context, DeclarationError, Strike, Taskmux
from taskmux.model.errors import InvalidName, NotEncodable, PayloadTooLarge
from taskmux.model.job import BlockedCause, JobRecord, State
from taskmux.model.queue import QueueSettings
from taskmux.policy.explain import Cause, explain
from taskmux.policy.strikes import (
    MOST_STRIKES,
    forgotten,
    lifted,
    read_strikes,
    set_aside_by,
    strike_of,
    struck,
)

SOMETHING = object()


def job(payload: bytes = b"{}", task: str = "mail", **fields: object) -> JobRecord:
    return JobRecord(queue="q", id="j", task=task, payload=payload, **fields)


class TestMatching:
    @pytest.mark.parametrize(
        ("strike", "payload", "met"),
        [
            (Strike("s", "mail"), b"{}", True),
            (Strike("s", "other"), b"{}", False),
            (Strike("s", None, {"user": 1}), b'{"user":1,"more":2}', True),
            (Strike("s", None, {"user": 1}), b'{"user":2}', False),
            (Strike("s", None, {"user": 1}), b"{}", False),
            (Strike("s", "mail", {"user": 1, "kind": "x"}), b'{"user":1}', False),
            (Strike("s", None, {"user": 1}), b'{"user":true}', False),
            (Strike("s", None, {"user": False}), b'{"user":0}', False),
            (Strike("s", None, {"user": 1.0}), b'{"user":1}', True),
            (Strike("s", None, {"user": "1"}), b'{"user":1}', False),
            (Strike("s", None, {"user": None}), b'{"user":null}', True),
            (Strike("s", None, {"user": None}), b"{}", False),
            (Strike("s", None, {"a": {"b": [1, True]}}), b'{"a":{"b":[1,true]}}', True),
            (Strike("s", None, {"a": {"b": [1, True]}}), b'{"a":{"b":[1,1]}}', False),
            (Strike("s", None, {"a": [1]}), b'{"a":[1,2]}', False),
            (Strike("s", None, {"user": 1}), b"[1]", False),
            (Strike("s", None, {"user": 1}), b"no json", False),
            (Strike("s", "mail", lifted=True), b"{}", False),
        ],
    )
    def test_one_strike(self, strike, payload, met):
        assert strike_of([strike], job(payload)) == (strike if met else None)

    def test_the_first_that_is_met_counts(self):
        strikes = [Strike("a", "other"), Strike("b", "mail"), Strike("c", "mail")]
        assert strike_of(strikes, job()).id == "b"

    def test_what_a_call_leaves_out_is_its_default(self):
        strike = Strike("s", None, {"kind": "welcome"})
        assert strike_of([strike], job(), {"kind": "welcome"}) is strike
        assert strike_of([strike], job(b'{"kind":"bill"}'), {"kind": "welcome"}) is None

    def test_a_signature_knows_its_defaults_as_json(self):
        @Taskmux("memory://").task(name="t")
        async def work(ctx: Context, a: int, b: str = "x", c: Any = SOMETHING) -> None: ...

        assert work.signature.defaults == {"b": "x"}
        assert work.signature.names == ("a", "b", "c")


class TestStored:
    def test_strikes_are_said_lifted_and_forgotten(self):
        one, two = Strike("a", "mail", at=5), Strike("b", None, {"user": 1}, "they asked")
        data = struck(struck(None, one), two)
        assert read_strikes(data) == (one, two)
        marked = lifted(data, "a")
        assert read_strikes(marked) == (replace(one, lifted=True), two)
        assert lifted(marked, "a") == marked
        assert forgotten(marked, {"b"}) == marked  # it is in force
        assert read_strikes(forgotten(marked, {"a"})) == (two,)
        assert forgotten(lifted(struck(None, one), "a"), {"a"}) is None

    def test_one_that_was_lifted_stays_so_when_another_is(self):
        data = struck(struck(None, Strike("a", "mail")), Strike("b", "mail"))
        assert all(one.lifted for one in read_strikes(lifted(lifted(data, "a"), "b")))

    def test_an_unknown_one_cannot_be_lifted(self):
        with pytest.raises(DeclarationError, match="no strike 'x'"):
            lifted(None, "x")

    def test_there_are_not_too_many(self):
        data = None
        for number in range(MOST_STRIKES):
            data = struck(data, Strike(str(number), "mail"))
        with pytest.raises(DeclarationError, match="Lift some"):
            struck(data, Strike("more", "mail"))

    def test_what_another_version_wrote_stops_no_job(self):
        assert read_strikes(b'{"strikes":1}') == ()

    def test_a_job_says_which_set_it_aside(self):
        aside = {"state": State.BLOCKED, "cause": BlockedCause.HOLD}
        assert set_aside_by(job(**aside, reason=str(Strike("ab12", "mail")))) == "ab12"
        assert set_aside_by(job(**aside)) is None
        assert set_aside_by(job(**aside, reason="strike while the iron is hot")) is None
        assert set_aside_by(job(reason=str(Strike("ab12", "mail")))) is None

    def test_its_text_is_one_that_every_store_holds(self):
        text = str(Strike("a", "mail", {"user": "\0\udcff" * 300}, "because"))
        assert len(text) <= 500
        assert text.startswith("strike a: task mail, user=")
        text.encode()


class TestSaid:
    @pytest.mark.parametrize(
        ("said", "error"),
        [
            ({}, DeclarationError),
            ({"reason": "no"}, DeclarationError),
            ({"task": "a b"}, InvalidName),
            ({"user": object()}, NotEncodable),
            ({"user": "x" * 5000}, PayloadTooLarge),
        ],
    )
    async def test_bad_input(self, said, error):
        async with Taskmux("memory://") as mux:
            with pytest.raises(error):
                await mux.queue("q").strike(**said)
            assert (await mux.queue("q").settings()).rev == 0

    async def test_a_task_must_have_the_argument(self):
        mux = Taskmux("memory://")

        @mux.task(name="mail")
        async def mail(user: int) -> None: ...

        async with mux:
            with pytest.raises(DeclarationError, match=r"no parameter 'usr'\. It has user"):
                await mux.queue("q").strike(task=mail, usr=1)
            assert (await mux.queue("q").strike(task=mail, user=1)).task == "mail"

    async def test_values_are_compared_as_they_travel(self):
        when = datetime(2030, 1, 1, tzinfo=UTC)
        async with Taskmux("memory://") as mux:
            strike = await mux.queue("q").strike(when=when, arguments={"task": "x"})
        assert strike.arguments == {"when": "2030-01-01T00:00:00Z", "task": "x"}


class TestExplained:
    def test_a_waiting_job_and_one_that_was_set_aside(self):
        strike = Strike("ab12", "mail", {}, "bad template")
        settings = QueueSettings(strikes=struck(None, strike))
        waiting = explain(job(), settings, None, None, 0)
        assert waiting.causes == (Cause.STRUCK,)
        assert "strike ab12: task mail (bad template)" in str(waiting)
        held = job(state=State.BLOCKED, cause=BlockedCause.HOLD, reason=str(strike))
        aside = explain(held, settings, None, None, 0)
        assert aside.causes == (Cause.BLOCKED,)
        assert "set aside by strike ab12" in str(aside)
