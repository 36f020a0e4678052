"""Refusals: what is stored about a run whose outcome the store does not take, as for its size."""

from __future__ import annotations

import random

from taskmux.config import Limits
from taskmux.model import transition
from taskmux.model.transition import Changes, Transition
from taskmux.policy.lifecycle import Run, decide
from taskmux.policy.outcome import describe, unstorable
from taskmux.worker.clock import monotonic, now_ms
from taskmux.worker.held import Held

__all__ = ["Substitutes"]


class Substitutes:
    """Makes outcomes for those that were refused.

    Args:
        worker: the worker's id.
        limits: sizes of what may be stored.
    """

    def __init__(self, worker: str, limits: Limits) -> None:
        self._worker = worker
        self._limits = limits
        self._rng = random.Random()  # noqa: S311 - jitter

    def instead(self, held: Held, error: BaseException, refusals: int) -> Transition | None:
        """Return what to store after so many refusals; None: nothing is left to try.

        First the job is dead with the refusal as its error. Its history may be what the store
        cannot hold: then it is dead without.
        """
        if refusals == 1:
            now = now_ms()
            run = Run(
                worker=self._worker,
                started_at=now - round((monotonic() - held.began) * 1000) if held.began else None,
                finished_at=now,
                history_limit=self._limits.history,
            )
            return decide(held.job, unstorable(describe(error, self._limits)), run, self._rng)
        if refusals == 2:  # noqa: PLR2004 - the second
            return transition.bury(held.job, Changes(reason="the store refused its outcome"))
        return None
