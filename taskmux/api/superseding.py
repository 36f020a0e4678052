"""Superseding: the newest job of a key runs instead of the one that runs now."""

from __future__ import annotations

from taskmux.api.batch import resend
from taskmux.api.connection import Connection
from taskmux.model import transition
from taskmux.model.job import BlockedCause, Dedup, Ref

__all__ = ["supersede"]


async def supersede(connection: Connection, ref: Ref, dedup: Dedup | None) -> None:
    """Cancel the owner of a job's key, if the job waits for it to end. It may be done again.

    Only a job that still waits has an owner before it: once it has been let go, whoever owns the
    key is the job itself or a newer one.
    """
    if dedup is None:
        return
    owner = await resend(lambda: connection.driver.dedup_owner(ref.queue, dedup.key), tries=3)
    if owner is None or owner == ref.id:
        return
    job, older = await connection.get(ref), await connection.get(Ref(ref.queue, owner))
    if job is None or older is None or job.cause is not BlockedCause.DEDUP:
        return
    reason = f"superseded by job {ref.id}"
    await connection.apply(transition.cancel(older.ref, older.policy.cancelled, reason))
