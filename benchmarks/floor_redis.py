"""The floor on Redis: what redis-py can do with the barest claim and acknowledgement in batches.

One coroutine on one connection repeats three steps, one after the other, until nothing waits:

1. one script call pops 100 ids off a sorted set (ZPOPMIN), reads their payloads from a hash
   (HMGET) and puts the ids under a sorted set of leases (ZADD);
2. a coroutine that does nothing is run for each payload: awaited inline (`drain`), or in an
   asyncio task of its own and then gathered (`drain_with_tasks`);
3. one script call acknowledges the 100: their leases go (ZREM), and their payloads (HDEL).

Each script is three commands or fewer, whatever the number of jobs. No claim overlaps an
acknowledgement. There are no states, results, fences, retries, operation ids, wake-ups, records
of finished jobs or renewals, nothing is decoded or encoded but ids and payloads as they are, and
nobody asks how far it has come. The clock runs from the first claim to the last acknowledgement.
taskmux is measured as a share of it on the same server, in the same run, on the same event loop.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

__all__ = ["drain", "drain_with_tasks", "round_trip", "used_memory"]

BATCH = 100
LEASE_S = 30
PREFIX = "{bench-floor}"

CLAIM = """
local popped = redis.call('ZPOPMIN', KEYS[1], ARGV[1])
if #popped == 0 then return {} end
local ids, leases = {}, {}
local lapse = redis.call('TIME')[1] + ARGV[2]
for i = 1, #popped, 2 do
  ids[#ids + 1] = popped[i]
  leases[i], leases[i + 1] = lapse, popped[i]
end
redis.call('ZADD', KEYS[3], unpack(leases))
return {ids, redis.call('HMGET', KEYS[2], unpack(ids))}
"""

ACK = """
redis.call('ZREM', KEYS[2], unpack(ARGV))
return redis.call('HDEL', KEYS[1], unpack(ARGV))
"""

Handle = Callable[[Sequence[bytes]], Awaitable[None]]


async def noop(_payload: bytes) -> None:
    """Stand in for a handler."""


async def _inline(payloads: Sequence[bytes]) -> None:
    for payload in payloads:
        await noop(payload)


async def _in_tasks(payloads: Sequence[bytes]) -> None:
    await asyncio.gather(*[asyncio.create_task(noop(payload)) for payload in payloads])


async def drain(url: str, jobs: int) -> float:
    """Return jobs per second of claim + run + acknowledge, each handler awaited inline."""
    return await _measure(url, jobs, _inline)


async def drain_with_tasks(url: str, jobs: int) -> float:
    """Return jobs per second of claim + run + acknowledge, each handler in a task of its own."""
    return await _measure(url, jobs, _in_tasks)


async def _measure(url: str, jobs: int, handle: Handle) -> float:
    client = redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0))
    waiting, payloads, leases = (f"{PREFIX}:{name}" for name in ("wait", "data", "lease"))
    try:
        await client.delete(waiting, payloads, leases)
        for start in range(0, jobs, 1000):
            numbers = range(start, min(start + 1000, jobs))
            await client.hset(
                payloads,
                mapping={f"{number:032x}": b'{"number":%d}' % number for number in numbers},
            )
            await client.zadd(waiting, {f"{number:032x}": number for number in numbers})
        claim, ack = client.register_script(CLAIM), client.register_script(ACK)
        began = time.perf_counter()
        while got := await claim(keys=[waiting, payloads, leases], args=[BATCH, LEASE_S]):
            ids, work = got
            await handle(work)
            await ack(keys=[payloads, leases], args=ids)
        return jobs / (time.perf_counter() - began)
    finally:
        await client.delete(waiting, payloads, leases)
        await client.aclose()


async def used_memory(url: str) -> int:
    """Return the bytes that the server's data set uses."""
    client = redis.Redis.from_url(url)
    try:
        return int((await client.info("memory"))["used_memory_dataset"])
    finally:
        await client.aclose()


async def round_trip(url: str, samples: int = 200) -> float:
    """Return the median of PING on an idle server, in milliseconds."""
    client = redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0))
    took = []
    try:
        for _ in range(samples):
            await asyncio.sleep(0.01)
            began = time.perf_counter()
            await client.execute_command("PING")
            took.append(time.perf_counter() - began)
    finally:
        await client.aclose()
    return statistics.median(took) * 1000
