"""Claim: who gets which jobs, in which order, and how they are leased."""

from __future__ import annotations

from taskmux.conformance.bench import Bench


class ClaimCases:
    """C1 to C7."""

    async def test_c1_lowest_priority_number_first(self, bench: Bench) -> None:
        await bench.created(*(bench.job(f"p{n}", priority=n) for n in (100, 0, 2047, 5)))
        assert await bench.claimed_ids(10) == ["p0", "p5", "p100", "p2047"]
