"""How much chaos: TASKMUX_CHAOS_SCALE multiplies the numbers of jobs and faults (1: all of them).

CI, which has ten minutes, runs a part; `nox -s chaos` runs it all.
"""

from __future__ import annotations

import os

__all__ = ["scaled"]

SCALE = float(os.environ.get("TASKMUX_CHAOS_SCALE", "1"))


def scaled(number: int, least: int = 1) -> int:
    """Return a number of jobs or faults at the scale of this run."""
    return max(least, round(number * SCALE))
