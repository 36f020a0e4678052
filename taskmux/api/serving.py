"""What a worker serves and what an app's tasks need: where the two do not meet."""

from __future__ import annotations

from collections.abc import Collection

from taskmux.api.task import Registry

__all__ = ["mismatches", "queues_of"]


def queues_of(tasks: Registry) -> dict[str, list[str]]:
    """Return the queues that tasks use, sorted, each with the names of its tasks."""
    found: dict[str, list[str]] = {}
    for name in tasks.names():
        if (task := tasks.get(name)) is not None:
            found.setdefault(task.queue, []).append(name)
    return dict(sorted(found.items()))


def mismatches(tasks: Registry, served: Collection[str]) -> list[str]:
    """Return a sentence for each queue that only the worker, or only a task, knows."""
    used = queues_of(tasks)
    if not used:
        return ["This app has no tasks: the jobs of its queues wait."]
    found = [
        f"Queue {queue!r} is served, but no task uses it: they use {', '.join(used)}."
        for queue in served
        if queue not in used
    ]
    return found + [
        f"Queue {queue!r} is not served here: its tasks ({', '.join(names)}) need another worker."
        for queue, names in used.items()
        if queue not in served
    ]
