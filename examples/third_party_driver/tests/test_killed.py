"""Killed between any two steps: a batch is there or not, and its repeat leaves what it should."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from taskmux.driver import (
    ApplyStatus,
    ClaimAsk,
    Dedup,
    JobRecord,
    NewJob,
    Op,
    Ref,
    State,
    transition,
)
from taskmux_files import FilesDriver

STEPS = {"open", "flock", "write", "__exit__", "replace"}
"""The calls into the system, by name, before each of which the process is killed in turn."""

NAMES = "abcd"


def new(name: str, queue: str = "q") -> NewJob:
    """Return a job to create."""
    return NewJob(JobRecord(queue=queue, id=name, task="t", dedup=Dedup(f"key of {name}")))


async def push(driver: FilesDriver) -> object:
    """Push to two queues: there may be a kill between them."""
    return await driver.push(Op("p", 2), [new("c"), new("d"), new("c", "other")])


async def claim(driver: FilesDriver) -> object:
    """Claim what waits."""
    return (await driver.claim(Op("w", 2), ClaimAsk("q", "w", 5, 1000))).jobs


async def apply(driver: FilesDriver) -> object:
    """Finish the job that runs, and remove the other."""
    (running,) = await driver.get([Ref("q", "a")])
    assert running is not None
    done = [transition.complete(running, b"1"), transition.remove(Ref("q", "b"))]
    answers = await driver.apply(Op("w", 1), done)
    return [answer.status in {ApplyStatus.APPLIED, ApplyStatus.REPEATED} for answer in answers]


def run(root: Path, *verbs: Callable[[FilesDriver], Awaitable[object]]) -> Sequence[object]:
    """Open the store, do these, and return their answers."""

    async def main() -> Sequence[object]:
        driver = FilesDriver(f"files://{root}", clock=lambda: 1_700_000_000_000)
        await driver.open()
        try:
            return [await verb(driver) for verb in verbs]
        finally:
            await driver.close()

    return asyncio.run(main())


async def prepare(driver: FilesDriver) -> None:
    """Leave job a running and job b waiting."""
    await driver.push(Op("p", 1), [new("a"), new("b")])
    await driver.claim(Op("w", 1), ClaimAsk("q", "w", 1, 1000))


async def look(driver: FilesDriver) -> object:
    """Return all that can be seen."""
    jobs = await driver.get([Ref(queue, name) for queue in ("q", "other") for name in NAMES])
    return jobs, await driver.counts("q"), await driver.counts("other"), await driver.queues()


async def is_whole(driver: FilesDriver) -> None:
    """Check that a queue has all of the batch or nothing of it."""
    c, d = await driver.get([Ref("q", "c"), Ref("q", "d")])
    assert (c is None) == (d is None)
    a, b = await driver.get([Ref("q", "a"), Ref("q", "b")])
    assert a is not None
    assert (a.state is State.COMPLETED) == (b is None)


def killed(root: Path, step: int, verb: Callable[[FilesDriver], Awaitable[object]]) -> bool:
    """Do it in a process that kills itself at a step; return whether that came."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
        return os.WIFSIGNALED(status)
    left = itertools.count(step, -1)

    def strike(_frame: object, event: str, called: object) -> None:
        if event == "c_call" and getattr(called, "__name__", "") in STEPS and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    threading.setprofile(strike)
    try:
        run(root, verb)
    except BaseException:  # noqa: BLE001 - nothing of the parent's may run in the child
        os._exit(1)
    os._exit(0)


@pytest.mark.parametrize("verb", [push, claim, apply])
def test_killed_at_any_step_a_repeat_finishes(
    tmp_path: Path, verb: Callable[[FilesDriver], Awaitable[object]]
) -> None:
    """Whatever the kill left, the same operation sent again ends as if nothing had happened."""
    expected = run(tmp_path / "undisturbed", prepare, verb, look)
    for step in itertools.count():
        root = tmp_path / str(step)
        run(root, prepare)
        struck = killed(root, step, verb)
        assert run(root, is_whole, verb, look)[1:] == expected[1:]
        if not struck:
            break
    assert step > len(STEPS), "it was never killed in the middle"
