"""taskmux: a task queue for Python with pluggable storage."""

from taskmux.app import Taskmux
from taskmux.config import Limits
from taskmux.context import Context
from taskmux.errors import TaskmuxError
from taskmux.handle import JobHandle
from taskmux.hookspecs import hookimpl
from taskmux.job import JobRecord, State
from taskmux.lifecycle import Fail, RateLimited, Retry, Snooze
from taskmux.messages import Command
from taskmux.options import JobOptions
from taskmux.queue import Counts, Queue
from taskmux.retry import Exponential, Fixed, Linear, Steps
from taskmux.task import Call, Task
from taskmux.worker import Worker

__all__ = [
    "Call",
    "Command",
    "Context",
    "Counts",
    "Exponential",
    "Fail",
    "Fixed",
    "JobHandle",
    "JobOptions",
    "JobRecord",
    "Limits",
    "Linear",
    "Queue",
    "RateLimited",
    "Retry",
    "Snooze",
    "State",
    "Steps",
    "Task",
    "Taskmux",
    "TaskmuxError",
    "Worker",
    "hookimpl",
]

__version__ = "0.1.0"
