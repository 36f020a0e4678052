"""What keeps a worker from stopping, in words: its process ends, and somebody has to find it."""

from __future__ import annotations

from taskmux.worker.lanes import Lanes
from taskmux.worker.watch import Watch, whereabouts

__all__ = ["what_hangs"]

NAMED = 5
"""Jobs that are named; of more there is only the number."""


def what_hangs(lifespan: str | None, lanes: Lanes, watch: Watch | None, *, blocked: bool) -> str:
    """Return it as a clause. May be called in any thread.

    Args:
        lifespan: what the app's lifespan does just now, if it does.
        lanes: what the worker holds.
        watch: knows whose code blocks the event loop; None: the worker has not begun.
        blocked: the event loop does not turn.
    """
    running = sorted(lanes.running_jobs(), key=lambda held: held.began)
    if lifespan is not None:
        what = lifespan
    elif running:
        names = ", ".join(f"{held.job.ref} ({held.job.task})" for held in running[:NAMED])
        more = f" and {len(running) - NAMED} more" if len(running) > NAMED else ""
        what = f"handlers do not end: {names}{more}"
    elif lanes.held:
        what = "outcomes could not be stored"
    else:
        what = "a task, a thread or an exit function of the app does not end"
    if blocked:
        who, where = whereabouts() if watch is None else watch.culprit()
        what += f"; the event loop is blocked by {who}{where}"
    held = len(lanes.held)
    return f"{what}; {held} held until the leases lapse" if held else what
