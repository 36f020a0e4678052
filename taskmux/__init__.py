"""taskmux: a task queue for Python with pluggable storage. All that users import is here."""

from taskmux.api.blocking import BlockingHandle, BlockingQueue
from taskmux.api.blocking_app import BlockingTaskmux
from taskmux.api.bulk import BulkResult
from taskmux.api.bulk_verbs import BulkOptions
from taskmux.api.call import Call
from taskmux.api.context import BlockingContext, Context, Sent
from taskmux.api.dead import DeadLetters
from taskmux.api.dedup import Dedup
from taskmux.api.events import Event, EventStream
from taskmux.api.filters import FilterOptions
from taskmux.api.handle import JobHandle, Update
from taskmux.api.options import JobOptions, QueueOptions
from taskmux.api.queue import Counts, Queue
from taskmux.api.retention import Keep, Retention
from taskmux.api.task import BlockingTask, Task
from taskmux.app import Taskmux
from taskmux.config import Limits
from taskmux.driver.hook import hookimpl
from taskmux.model.backoff import Exponential, Fixed, Linear, Steps
from taskmux.model.errors import (
    ConfigError,
    CorruptRecord,
    DeclarationError,
    DuplicateJob,
    GroupFull,
    InvalidArguments,
    InvalidName,
    InvalidURL,
    JobCancelled,
    JobConflict,
    JobError,
    JobFailed,
    JobNotFound,
    LeaseLost,
    MissingExtra,
    Moved,
    NotDecodable,
    NotEncodable,
    PayloadError,
    PayloadTooLarge,
    ResultNotKept,
    ResultTimeout,
    StoreBusy,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreIncompatible,
    StoreUnavailable,
    TaskmuxError,
    UnknownScheme,
    UnsupportedFeature,
)
from taskmux.model.job import Attempt, ErrorInfo, JobRecord, Ref, State
from taskmux.model.queue import Rate
from taskmux.model.signals import Fail, RateLimited, Retry, Snooze
from taskmux.model.units import Duration
from taskmux.model.workers import Command, WorkerInfo
from taskmux.policy.deadstats import DeadGroup, DeadStats
from taskmux.policy.explain import Cause, Explanation, Reason
from taskmux.policy.strikes import Strike
from taskmux.worker import Worker

__all__ = [
    "Attempt",
    "BlockingContext",
    "BlockingHandle",
    "BlockingQueue",
    "BlockingTask",
    "BlockingTaskmux",
    "BulkOptions",
    "BulkResult",
    "Call",
    "Cause",
    "Command",
    "ConfigError",
    "Context",
    "CorruptRecord",
    "Counts",
    "DeadGroup",
    "DeadLetters",
    "DeadStats",
    "DeclarationError",
    "Dedup",
    "DuplicateJob",
    "Duration",
    "ErrorInfo",
    "Event",
    "EventStream",
    "Explanation",
    "Exponential",
    "Fail",
    "FilterOptions",
    "Fixed",
    "GroupFull",
    "InvalidArguments",
    "InvalidName",
    "InvalidURL",
    "JobCancelled",
    "JobConflict",
    "JobError",
    "JobFailed",
    "JobHandle",
    "JobNotFound",
    "JobOptions",
    "JobRecord",
    "Keep",
    "LeaseLost",
    "Limits",
    "Linear",
    "MissingExtra",
    "Moved",
    "NotDecodable",
    "NotEncodable",
    "PayloadError",
    "PayloadTooLarge",
    "Queue",
    "QueueOptions",
    "Rate",
    "RateLimited",
    "Reason",
    "Ref",
    "ResultNotKept",
    "ResultTimeout",
    "Retention",
    "Retry",
    "Sent",
    "Snooze",
    "State",
    "Steps",
    "StoreBusy",
    "StoreDenied",
    "StoreError",
    "StoreFull",
    "StoreIncompatible",
    "StoreUnavailable",
    "Strike",
    "Task",
    "Taskmux",
    "TaskmuxError",
    "UnknownScheme",
    "UnsupportedFeature",
    "Update",
    "Worker",
    "WorkerInfo",
    "hookimpl",
]

__version__ = "0.1.0"
