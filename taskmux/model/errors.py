"""The one tree of errors. Every message says what happened and what to do next.

```
TaskmuxError
├── ConfigError          a declaration, a name, a URL or a setting is wrong; nothing was sent
│   ├── InvalidURL, UnknownScheme, MissingExtra
│   ├── InvalidName, DeclarationError
│   └── UnsupportedFeature
├── PayloadError         arguments or a result cannot travel; nothing was sent
│   ├── InvalidArguments, NotEncodable, NotDecodable
│   └── PayloadTooLarge
├── StoreError           the store refused or could not be reached
│   ├── StoreUnavailable (try again), StoreBusy (try again), StoreFull
│   ├── StoreIncompatible, StoreDenied
│   └── CorruptRecord
└── JobError             about one job
    ├── JobNotFound, JobConflict, DuplicateJob, Moved, GroupFull
    ├── JobFailed, JobCancelled, ResultNotKept, ResultTimeout
    └── LeaseLost
```

`Fail`, `Retry`, `Snooze` and `RateLimited` are not errors: a handler raises them to say how its
job goes on. They live in `taskmux.model.signals`.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "CorruptRecord",
    "DeclarationError",
    "DuplicateJob",
    "GroupFull",
    "InvalidArguments",
    "InvalidName",
    "InvalidURL",
    "JobCancelled",
    "JobConflict",
    "JobError",
    "JobFailed",
    "JobNotFound",
    "LeaseLost",
    "MissingExtra",
    "Moved",
    "NotDecodable",
    "NotEncodable",
    "PayloadError",
    "PayloadTooLarge",
    "ResultNotKept",
    "ResultTimeout",
    "StoreBusy",
    "StoreDenied",
    "StoreError",
    "StoreFull",
    "StoreIncompatible",
    "StoreUnavailable",
    "TaskmuxError",
    "UnknownScheme",
    "UnsupportedFeature",
]


class TaskmuxError(Exception):
    """The root of every error that taskmux raises on purpose."""


class ConfigError(TaskmuxError):
    """A declaration or a setting is wrong. Nothing was sent to any store."""


class InvalidURL(ConfigError):
    """The text is no backend URL."""


class UnknownScheme(InvalidURL):
    """No installed driver serves this URL scheme."""


class MissingExtra(ConfigError):
    """The driver is known, but the package it needs is not installed."""


class InvalidName(ConfigError):
    """A queue, task or job name has characters that not every store can hold."""


class DeclarationError(ConfigError):
    """A task, option or duration is declared in a way that cannot work."""


class UnsupportedFeature(ConfigError):
    """The driver lacks the capability that the application uses."""


class PayloadError(TaskmuxError):
    """Arguments or a result cannot travel. Nothing was sent to any store."""


class InvalidArguments(PayloadError, TypeError):
    """The arguments do not fit the handler's signature or annotations."""


class NotEncodable(PayloadError):
    """A value has no JSON form."""


class NotDecodable(PayloadError):
    """Stored bytes do not fit the handler's annotations."""


class PayloadTooLarge(PayloadError):
    """A payload, result or option is over the configured size."""


class StoreError(TaskmuxError):
    """The store refused an operation or could not be reached."""


class StoreUnavailable(StoreError):
    """The store cannot be reached now; the same operation may be sent again."""


class StoreBusy(StoreUnavailable):
    """The store is locked by somebody else; the same operation may be sent again."""


class StoreFull(StoreError):
    """The store has no room for more. Draining goes on; adding does not."""


class StoreIncompatible(StoreError):
    """The store's version, settings or contents do not fit this driver."""


class StoreDenied(StoreError):
    """The store refused the credentials or the permission.

    A job whose enqueueing was refused half-way may be stored all the same.
    """


class CorruptRecord(StoreError):
    """A stored record is malformed or foreign."""


class JobError(TaskmuxError):
    """About one job."""


class JobNotFound(JobError, LookupError):
    """There is no such job: the id is wrong, or its retention has passed."""


class JobConflict(JobError):
    """The job's state, or the owner of its deduplication key, forbids this now."""


class DuplicateJob(JobError):
    """Another job has the id or the deduplication key (`on_duplicate="raise"`).

    Attributes:
        job_id: that job's id.
    """

    def __init__(self, message: str, job_id: str) -> None:
        super().__init__(message)
        self.job_id = job_id

    def __reduce__(self) -> tuple[type[DuplicateJob], tuple[str, str]]:
        """Return how it is made again in another process."""
        return type(self), (str(self), self.job_id)


class Moved(JobError):
    """The queue lives in another store now."""


class GroupFull(JobError):
    """The job's group has as many waiting jobs as its queue allows. The job was not stored."""


class JobFailed(JobError):
    """The job is dead: its handler failed for good."""


class JobCancelled(JobError):
    """The job was cancelled."""


class ResultNotKept(JobError):
    """The job keeps no result (`keep_result=False`)."""


class ResultTimeout(JobError, TimeoutError):
    """The job has not finished in the time given. It goes on."""


class LeaseLost(JobError):
    """This run no longer holds the job: its lease lapsed and the job may run elsewhere."""
