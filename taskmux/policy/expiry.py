"""When a job is too late to be begun. Pure functions.

`expires` counts from the moment a job could first run; `deadline` is an instant. Both say when a
run may begin at the latest, whatever its number: a retry and a redelivery are runs like the first.
What has begun is not stopped by them: that is what `timeout` is for.
"""

from __future__ import annotations

from datetime import UTC, datetime

from taskmux.model.job import JobRecord
from taskmux.model.units import show_ms

__all__ = ["begins_by", "expired"]


def begins_by(job: JobRecord) -> int | None:
    """Return the instant at which the job is too late, in the store's time; None: never."""
    deadline, age = job.policy.deadline, job.policy.expires_ms
    if age is None:
        return deadline
    end = job.created_at + age
    return end if deadline is None else min(end, deadline)


def expired(job: JobRecord, now: int) -> str | None:
    """Return why no run of the job may begin at `now`; None if one may."""
    end = begins_by(job)
    if end is None or now < end:
        return None
    if end == job.policy.deadline:
        when = datetime.fromtimestamp(end / 1000, UTC)
        return f"expired: no run was to begin after {when:%Y-%m-%d %H:%M:%S} UTC"
    age = show_ms(job.policy.expires_ms or 0)
    return f"expired: no run was to begin more than {age} after it was enqueued"
