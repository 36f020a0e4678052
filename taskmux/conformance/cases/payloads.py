"""Payloads: whatever goes in comes back equal, byte for byte."""

from __future__ import annotations

from contextlib import suppress

import pytest

from taskmux.conformance.bench import Bench
from taskmux.driver import (
    Attempt,
    Changes,
    Dedup,
    ErrorInfo,
    Keep,
    Note,
    Policy,
    Ref,
    State,
    StoreError,
    transition,
)
from taskmux.model.backoff import Backoff, Exponential, Fixed, Linear, Steps

BYTES = {
    "nul": b'{"a":"\x00","b":"\\u0000"}\x00',
    "dollar and dot keys": b'{"$set":{"a.b":1},".":"$","":null}',
    "unicode": '{"name":"Zoë 東京 🚀 \u2028"}'.encode(),
    "not text": bytes(range(256)),
    "256 KiB": b'"' + b"0123456789abcdef" * 16_384 + b'"',
    "big integers": b'{"n":123456789012345678901234567890,"m":9223372036854775808,"f":1e400}',
    "empty list": b'{"list":[],"object":{},"spaced":  1 }',
}

TEXTS = ("Zoë 東京 🚀", "$set", "a.b", "{curly}:colon", 'quo"te', "new\nline", "%s ?", "1", " ")

BACKOFFS: dict[str, Backoff] = {
    "fixed": Fixed("5s"),
    "linear": Linear("2s", cap="1m", jitter=0),
    "exponential": Exponential("1s", factor=1.5, cap="10m", jitter=0.25),
    "steps": Steps("1s", "1m", "1h"),
}


class PayloadCases:
    """G1."""

    @pytest.mark.parametrize("kind", BYTES)
    async def test_g1_bytes_come_back_equal(self, bench: Bench, kind: str) -> None:
        data = BYTES[kind]
        (job,) = await bench.created(bench.job(payload=data))
        assert job.payload == data
        held = await bench.claim_one()
        assert held.payload == data
        note = Note(ref=held.ref, fence=held.fence, progress=data, steps={"step": data})
        await bench.driver.annotate([note])
        await bench.applied(transition.complete(held, data))
        done = await bench.record(job)
        assert (done.payload, done.result) == (data, data)
        assert (done.progress, done.steps) == (data, {"step": data})
        assert await bench.walk(State.COMPLETED) == [done]

    @pytest.mark.parametrize("text", TEXTS)
    async def test_g1_text_comes_back_equal(self, bench: Bench, text: str) -> None:
        await bench.created(
            bench.job(
                f"id {text}",
                headers={text: text},
                tags=(text, "tag"),
                dedup=Dedup(text),
                group=text,
            )
        )
        job = await bench.claim_one()
        assert (job.id, job.headers, job.tags) == (f"id {text}", {text: text}, (text, "tag"))
        assert (job.dedup, job.group) == (Dedup(text), text)
        await bench.driver.annotate(
            [Note(ref=job.ref, fence=job.fence, steps={text: b"1"}, log=text)]
        )
        error = ErrorInfo(type="KeyError", message=text, traceback=text)
        history = (Attempt(1, job.fence, text, "failed", 1, 2, error),)
        await bench.applied(
            transition.bury(job, Changes(reason=text, error=error, history=history))
        )
        dead = await bench.record(Ref(bench.queue, f"id {text}"))
        assert (dead.reason, dead.error, dead.history) == (text, error, history)
        assert (dead.steps, dead.logs) == ({text: b"1"}, (text,))
        assert [one.id for one in await bench.walk(State.DEAD, tag=text)] == [dead.id]

    async def test_g1_text_with_nul_comes_back_equal_or_is_refused(self, bench: Bench) -> None:
        """The core sends none; what comes from elsewhere must not be cut short in silence."""
        text = "before\0after"
        await bench.created(bench.job())
        job = await bench.claim_one()
        note = Note(ref=job.ref, fence=job.fence, log=text)
        with suppress(StoreError):
            await bench.driver.annotate([note])
        assert (await bench.record(job)).logs in ((), (text,))
        error = ErrorInfo(type=text, message=text, traceback=text)
        history = (Attempt(1, 1, text, text, error=error),)
        changes = Changes(reason=text, error=error, history=history)
        with suppress(StoreError):
            await bench.apply(transition.bury(job, changes))
        dead = await bench.record(job)
        written = (dead.reason, dead.error, dead.history)
        assert written in ((None, None, ()), (text, error, history))
        tagged = bench.job("tagged", tags=(text,), headers={"name": text})
        with suppress(StoreError):
            await bench.push(tagged)
        stored = await bench.get(tagged)
        assert stored is None or (stored.tags, stored.headers) == ((text,), {"name": text})

    @pytest.mark.parametrize("kind", BACKOFFS)
    async def test_g1_a_policy_comes_back_equal(self, bench: Bench, kind: str) -> None:
        policy = Policy(
            max_attempts=2**31,
            max_crashes=0,
            timeout_ms=86_400_000,
            backoff=BACKOFFS[kind],
            keep_result=False,
            completed=Keep(0, 0),
            cancelled=Keep(2**52),
            dead=Keep(1, 1_000),
        )
        (job,) = await bench.created(bench.job(policy=policy))
        assert job.policy == policy
        assert (await bench.claim_one()).policy == policy

    async def test_g1_fields_are_cleared_as_they_are_set(self, bench: Bench) -> None:
        job = await bench.running()
        error = ErrorInfo("ValueError", "bad")
        spent = Changes(attempts=1, reason="why", error=error, history=(Attempt(1, 1, "w", "x"),))
        await bench.applied(transition.again(job, spent, 0))
        job = await bench.claim_one()
        assert (job.attempts, job.reason, job.error) == (1, "why", error)
        await bench.applied(transition.complete(job, b"1"))
        done = await bench.record(job)
        assert (done.attempts, done.reason, done.error, done.result) == (2, None, None, b"1")
        assert len(done.history) == 1
