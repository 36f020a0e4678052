"""Annotate: what a running job leaves on its record."""

from __future__ import annotations

import pytest

from taskmux.conformance.bench import Bench
from taskmux.conformance.model import noted
from taskmux.driver import Applied, ApplyStatus, JobRecord, Note, State, transition


def _full(job: JobRecord) -> Note:
    return Note(ref=job.ref, fence=job.fence, progress=b"50", steps={"a": b"1"}, log="line")


class NoteCases:
    """N1 and N2."""

    @pytest.mark.parametrize(
        "state", ["waiting", "delayed", "blocked", "completed", "dead", "cancelled"]
    )
    async def test_n1_only_a_running_job_takes_notes(self, bench: Bench, state: str) -> None:
        job = await bench.arrange(state)
        assert list(await bench.driver.annotate([_full(job)])) == [
            Applied(ApplyStatus.STALE, job.state)
        ]
        assert await bench.record(job) == job

    async def test_n1_a_zombies_note_is_refused(self, bench: Bench) -> None:
        zombie = await bench.running()
        await bench.applied(transition.release(zombie))
        holder = await bench.claim_one()
        (answer,) = await bench.driver.annotate([_full(zombie)])
        assert answer == Applied(ApplyStatus.STALE, State.ACTIVE)
        assert await bench.record(holder) == holder

    async def test_n1_no_record_is_gone(self, bench: Bench) -> None:
        (answer,) = await bench.driver.annotate([_full(bench.job(fence=1))])
        assert answer == Applied(ApplyStatus.GONE, None)

    async def test_n2_each_kind_is_written_alone(self, bench: Bench) -> None:
        job = await bench.running()
        for note in (
            Note(ref=job.ref, fence=job.fence, progress=b"10"),
            Note(ref=job.ref, fence=job.fence, steps={"a": b"1"}),
            Note(ref=job.ref, fence=job.fence, log="first"),
            Note(ref=job.ref, fence=job.fence, steps={"b": b"2", "a": b"3"}),
            Note(ref=job.ref, fence=job.fence, log="second", log_index=1),
            Note(ref=job.ref, fence=job.fence, progress=b"20"),
        ):
            job = noted(job, note)
            (answer,) = await bench.driver.annotate([note])
            assert answer == Applied(ApplyStatus.APPLIED, State.ACTIVE)
            assert await bench.record(job) == job

    async def test_n2_a_repeat_changes_nothing(self, bench: Bench) -> None:
        job = await bench.running()
        notes = [_full(job), Note(ref=job.ref, fence=job.fence, log="next", log_index=1)]
        await bench.driver.annotate(notes)
        before = await bench.record(job)
        assert before.logs == ("line", "next")
        answers = await bench.driver.annotate(notes)
        assert [answer.status for answer in answers] == [ApplyStatus.APPLIED] * 2
        assert await bench.record(job) == before

    async def test_n2_a_taken_log_line_stays(self, bench: Bench) -> None:
        job = await bench.running()
        for text in ("mine", "not mine"):
            await bench.driver.annotate([Note(ref=job.ref, fence=job.fence, log=text)])
        assert (await bench.record(job)).logs == ("mine",)

    async def test_n2_notes_of_several_jobs_in_one_call(self, bench: Bench) -> None:
        await bench.created(bench.job("a"), bench.job("b"))
        a, b = (await bench.claim(2)).jobs
        gone = bench.job("c", fence=1)
        answers = await bench.driver.annotate([_full(a), _full(gone), _full(b), _full(a)])
        assert [answer.status for answer in answers] == [
            ApplyStatus.APPLIED,
            ApplyStatus.GONE,
            ApplyStatus.APPLIED,
            ApplyStatus.APPLIED,
        ]
        for job in (a, b):
            assert await bench.record(job) == noted(job, _full(job))

    async def test_n2_notes_outlive_the_run(self, bench: Bench) -> None:
        job = await bench.running()
        await bench.driver.annotate([_full(job)])
        await bench.applied(transition.release(job))
        again = await bench.claim_one()
        assert (again.progress, again.steps, again.logs) == (b"50", {"a": b"1"}, ("line",))
