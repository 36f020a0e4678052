"""The floor on MongoDB: what PyMongo can do with the barest claim and acknowledge in batches.

No states but three, no retries, no fences, no history: ids are found through an index, leased by
one update with the claim's number, read back by that number, and acknowledged by one bulk write.
Every write waits for a majority, as taskmux's do. Taskmux is measured as a share of it, on the
same server in the same run, on the same event loop.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any
from urllib.parse import urlsplit

from pymongo import ASCENDING, AsyncMongoClient, UpdateOne, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from taskmux import Taskmux

__all__ = ["bulk", "bulk_alike", "drain", "round_trip"]

BATCH = 100
PUSHED = 500
DATABASE = "bench-floor"

Jobs = AsyncCollection[dict[str, Any]]


async def noop(_payload: bytes) -> None:
    """Stand in for a handler."""


async def _empty(client: AsyncMongoClient[dict[str, Any]]) -> Jobs:
    await client.drop_database(DATABASE)
    jobs: Jobs = client[DATABASE].get_collection("jobs", write_concern=WriteConcern("majority"))
    await jobs.create_index([("state", ASCENDING), ("seq", ASCENDING)])
    await jobs.create_index("claim", sparse=True)
    return jobs


async def _fill(jobs: Jobs, count: int) -> None:
    for start in range(0, count, PUSHED):
        numbers = range(start, min(start + PUSHED, count))
        await jobs.insert_many(
            [
                {"_id": f"{number:032x}", "state": "waiting", "seq": number, "payload": b"[1]"}
                for number in numbers
            ],
            ordered=False,
        )


async def bulk(url: str, jobs: int) -> float:
    """Return jobs per second of inserting `jobs` documents, some hundreds at a time."""
    async with AsyncMongoClient[dict[str, Any]](url) as client:
        collection = await _empty(client)
        began = time.perf_counter()
        await _fill(collection, jobs)
        took = time.perf_counter() - began
        await client.drop_database(DATABASE)
    return jobs / took


async def bulk_alike(url: str, jobs: int) -> float:
    """Return jobs per second of inserting what taskmux stores, under the indexes it needs.

    One job is enqueued to learn that; its document is then inserted again and again with other
    numbers, by the same calls as in `bulk`.
    """
    place = urlsplit(url)._replace(path=f"/{DATABASE}").geturl()
    async with AsyncMongoClient[dict[str, Any]](url) as client:
        await client.drop_database(DATABASE)
        async with Taskmux(place) as mux:  # it makes the indexes
            await mux.enqueue("bench.noop", {"number": 1}, queue="bulk")
        stored = client[DATABASE].get_collection("jobs", write_concern=WriteConcern("majority"))
        document = await stored.find_one()
        assert document is not None
        began = time.perf_counter()
        for start in range(0, jobs, PUSHED):
            numbers = range(start, min(start + PUSHED, jobs))
            await stored.insert_many(
                [
                    document | {"_id": f"bulk:{number:032x}", "seq": document["seq"] + 1 + number}
                    for number in numbers
                ],
                ordered=False,
            )
        took = time.perf_counter() - began
        await client.drop_database(DATABASE)
    return jobs / took


async def drain(url: str, jobs: int) -> float:
    """Return jobs per second of claim + run + acknowledge, `jobs` of them, handlers inline."""
    async with AsyncMongoClient[dict[str, Any]](url) as client:
        collection = await _empty(client)
        await _fill(collection, jobs)
        began = time.perf_counter()
        claim = 1
        while await _one_batch(collection, claim):
            claim += 1
        took = time.perf_counter() - began
        await client.drop_database(DATABASE)
    return jobs / took


async def _one_batch(jobs: Jobs, claim: int) -> bool:
    head = jobs.find({"state": "waiting"}, {"_id": 1}).sort("seq", ASCENDING).limit(BATCH)
    ids = [one["_id"] async for one in head]
    if not ids:
        return False
    await jobs.update_many(
        {"_id": {"$in": ids}, "state": "waiting"}, {"$set": {"state": "active", "claim": claim}}
    )
    leased = await jobs.find({"claim": claim}).to_list()
    for one in leased:
        await noop(one["payload"])
    await jobs.bulk_write(
        [
            UpdateOne(
                {"_id": one["_id"], "claim": claim},
                {"$set": {"state": "completed"}, "$unset": {"claim": 1}},
            )
            for one in leased
        ],
        ordered=False,
    )
    return True


async def round_trip(url: str, samples: int = 200) -> float:
    """Return the median of an insert that a majority holds, on an idle server, in milliseconds."""
    took = []
    async with AsyncMongoClient[dict[str, Any]](url) as client:
        collection = await _empty(client)
        for number in range(samples):
            await asyncio.sleep(0.01)
            began = time.perf_counter()
            await collection.insert_one({"_id": number})
            took.append(time.perf_counter() - began)
        await client.drop_database(DATABASE)
    return statistics.median(took) * 1000
