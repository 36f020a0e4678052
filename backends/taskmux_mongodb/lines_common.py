"""The common line's turn: where the jobs without a group stand among the groups.

The common line has no place in the ring, so a queue without groups writes none. Its turn is the
last of three:

- when it last gave a job while there were groups: `turn` in its gate;
- when it was held until;
- since when it has had jobs. That is when the first of its waiting jobs came, which their `rev`
  tells. A job may have come earlier and left otherwise than by a claim: it was cancelled, say.
  So its gate keeps in `left` when such jobs came and left, as two numbers: who came before the
  second came while there were others, and the line has had jobs since the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from taskmux.driver import LINE_LIMIT

from taskmux_mongodb.claim_jobs import IN_LINE
from taskmux_mongodb.clock import Numbers
from taskmux_mongodb.lines_gates import expiry, gate_key, gate_of
from taskmux_mongodb.records import Document
from taskmux_mongodb.store import Store

__all__ = ["note_left", "turn_of"]

_KEPT: Final = 8
"""How many stretches of time a gate keeps in which the line had jobs. They seldom are two."""

Stretch = tuple[int, int]
"""When a job came that has left, and when it left."""


async def turn_of(
    store: Store, queue: str, gate: Document | None, jobs: list[Document], *, more: bool
) -> int:
    """Return the turn of a common line, given its gate and its first jobs.

    Others may have come earlier: those that are less urgent, or that another went in front of. If
    there may be `more` than the jobs given, some of them are read; but not if the line has given
    a job since its first ones came, and so it does not matter when they did.
    """
    gave: int = max((gate or {}).get("turn", 0), Numbers.at(gate_of(gate).held_until))
    came = _first(jobs)
    if more and came > gave:
        waiting = {"queue": queue, "state": "waiting"}
        others = store.jobs.find(waiting, {"rev": 1}).sort(IN_LINE).skip(len(jobs))
        came = min(came, _first(await others.limit(LINE_LIMIT).to_list(None), came))
    return max(gave, _since(came, (gate or {}).get("left", ())))


def _first(jobs: list[Document], default: int = 0) -> int:
    return min((rev for job in jobs if isinstance(rev := job.get("rev"), int)), default=default)


def _since(came: int, left: Sequence[Stretch]) -> int:
    """Return since when a line has had jobs, if the first of those that wait came then."""
    for first, gone in reversed(left):
        if came <= gone:
            came = min(came, first)
    return came


async def note_left(store: Store, left: Mapping[str, int]) -> None:
    """Keep, by queue, when the first of the jobs came that have left the common line unclaimed.

    Only where there are groups: those that come later stand behind the common line anyway.
    """
    await asyncio.gather(*(_note(store, queue, came) for queue, came in left.items()))


async def _note(store: Store, queue: str, came: int) -> None:
    if await store.ring.find_one({"queue": queue}, {"_id": 1}) is None:
        return
    where = {"_id": gate_key(queue, None)}
    gate = await store.gates.find_one(where, {"left": 1})
    kept: list[Stretch] = [(first, gone) for first, gone in (gate or {}).get("left", ())]
    since = _since(came, kept)
    kept = [one for one in kept if one[1] < since]
    kept.append((since, store.numbers.next()))
    change = {"$set": {"left": kept[-_KEPT:]}, "$max": {"expire_at": expiry(store.clock.latest())}}
    await store.hasty_gates.update_one(where, change, upsert=True)
