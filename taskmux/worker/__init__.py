"""The worker: fetch -> lane: load -> run -> decide -> settle, and the duties beside them."""

from taskmux.worker.options import WorkerOptions, check_concurrency
from taskmux.worker.supervisor import Worker

__all__ = ["Worker", "WorkerOptions", "check_concurrency"]
