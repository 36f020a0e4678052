"""The floor on Redis: what redis-py can do with the barest claim and acknowledge in batches.

No states, no retries, no fences, no history: a list of ids, a hash of payloads, a sorted set of
leases, one script call per claim and one per acknowledgement. Nobody can be faster through this
client with leases at all, so taskmux is measured as a share of it, on the same server in the same
run, on the same event loop.
"""

from __future__ import annotations

import asyncio
import time

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

__all__ = ["drain", "used_memory"]

BATCH = 100
PREFIX = "{bench-floor}"

CLAIM = """
local ids = redis.call('LPOP', KEYS[1], ARGV[1])
if not ids then return {} end
local out = {}
local now = redis.call('TIME')[1]
for i, id in ipairs(ids) do
  redis.call('ZADD', KEYS[3], now + 30, id)
  out[i] = {id, redis.call('HGET', KEYS[2], id)}
end
return out
"""

ACK = """
for _, id in ipairs(ARGV) do
  if redis.call('ZREM', KEYS[2], id) == 1 then redis.call('HDEL', KEYS[1], id) end
end
return 1
"""


async def noop(_payload: bytes) -> None:
    """Stand in for a handler."""


async def drain(url: str, jobs: int) -> float:
    """Return jobs per second of claim + run + acknowledge, `jobs` of them, handlers inline."""
    client = redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0))
    waiting, payloads, leases = (f"{PREFIX}:{name}" for name in ("wait", "data", "lease"))
    try:
        await client.delete(waiting, payloads, leases)
        for start in range(0, jobs, 1000):
            ids = [f"{number:032x}" for number in range(start, min(start + 1000, jobs))]
            await client.hset(payloads, mapping=dict.fromkeys(ids, b'{"number":1}'))
            await client.rpush(waiting, *ids)
        claim, ack = client.register_script(CLAIM), client.register_script(ACK)
        began = time.perf_counter()
        pending: asyncio.Task[object] | None = None
        while got := await claim(keys=[waiting, payloads, leases], args=[BATCH]):
            for _, payload in got:
                await noop(payload)
            if pending is not None:
                await pending
            done = ack(keys=[payloads, leases], args=[job_id for job_id, _ in got])
            pending = asyncio.ensure_future(done)  # on the wire while the next claim is
        if pending is not None:
            await pending
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
