"""Push: new jobs, as `push.lua` takes them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from taskmux.driver import CorruptRecord, NewJob, Op, Pushed, PushStatus, StoreDenied

from taskmux_redis.batches import Part, by_queue
from taskmux_redis.failures import RefusedInScript
from taskmux_redis.records import encode_new
from taskmux_redis.scripts import script
from taskmux_redis.store import Store

__all__ = ["push"]

_PUSH = script("push")
_OTHERS = {"D": PushStatus.DEDUPLICATED, "R": PushStatus.REPLACED}
"""Answers that name another job."""
_PERHAPS = "The jobs may be stored all the same; with the same ids they may be enqueued again."
_STATUSES = {"C": PushStatus.CREATED, "U": PushStatus.DUPLICATE, "F": PushStatus.FULL}


async def push(store: Store, op: Op, jobs: Sequence[NewJob]) -> list[Pushed]:
    """Create jobs, each queue's by itself."""

    async def send(queue: str, part: Part, news: Sequence[NewJob]) -> list[Pushed]:
        await store.register(queue)
        arguments = [argument for new in news for argument in encode_new(new)]
        origin = f"{op.origin} push{part.name}"
        try:
            reply = await store.run(
                queue, _PUSH, origin, op.number, len(news), *arguments, size=part.size
            )
        except RefusedInScript as error:
            raise StoreDenied(f"{error} {_PERHAPS}") from None
        except CorruptRecord as error:
            raise CorruptRecord(f"{error} {_PERHAPS}") from None
        if reply[0][:1] == b"+":
            reply[0] = reply[0][1:]
            await store.met_first_job(queue)
        elif reply[0][:1] != b"M":
            store.known.used.add(queue)
        return _pushed(news, reply)

    return await by_queue(jobs, _queue_of, send, _size)


_queue_of = attrgetter("job.queue")


def _size(new: NewJob) -> int:
    return len(new.job.payload)


def _pushed(news: Sequence[NewJob], reply: Sequence[bytes]) -> list[Pushed]:
    codes, *others = reply
    owners = iter(others)
    answer: list[Pushed] = []
    for code, new in zip(codes.decode(), news, strict=True):
        status = _STATUSES.get(code)
        if status is not None:
            answer.append(Pushed(status, new.job.id))
        elif code in _OTHERS:
            answer.append(Pushed(_OTHERS[code], next(owners).decode()))
        else:
            answer.append(Pushed(PushStatus.MOVED, others[0].decode()))
    return answer
