"""What is stored about a queue, and what is told of a place in it. Plain data."""

from __future__ import annotations

import msgspec

__all__ = ["LineSettings", "QueueSettings", "Rate", "Standing"]


class Rate(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """At most `count` starts in `per` milliseconds, evenly paced, and `burst` more after a rest.

    No window of `per` milliseconds sees more than `count + burst` starts. The arithmetic is in
    `taskmux.policy.gcra`.
    """

    count: int
    per: int
    burst: int = 0


class LineSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """What holds for one line of a queue. None: no limit.

    `declared`: the core's own note on where these settings come from; a driver never reads it.
    """

    paused: bool = False
    concurrency: int | None = None
    rate: Rate | None = None
    declared: str | None = None


class QueueSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """A queue's stored settings. `rev` rises at every change; 0 means never set.

    `concurrency` and `rate` hold for the queue as a whole. `lines` has what holds for single
    lines, by name; `groups` is for every other group, and `group_size` is how many waiting jobs a
    group may have: a line whose name begins with `@` is a task's own, and no group. `defaults`:
    options for jobs that do not say otherwise. `strikes`: jobs that are set aside instead of begun.
    Both are JSON of the core's own; a driver never reads them. `events`: how many events of the
    queue are kept; 0: none are written.
    """

    rev: int = 0
    paused: bool = False
    moved_to: str | None = None
    concurrency: int | None = None
    rate: Rate | None = None
    groups: LineSettings = LineSettings()
    group_size: int | None = None
    lines: dict[str, LineSettings] = msgspec.field(default_factory=dict)
    defaults: bytes | None = None
    strikes: bytes | None = None
    events: int = 10_000

    def line(self, name: str | None) -> LineSettings:
        """Return what holds for a line; None is the common one, which has no limits of its own."""
        if name is None:
            return _FREE
        return self.lines.get(name, _FREE if name[0] == "@" else self.groups)

    def size(self, name: str | None) -> int | None:
        """Return how many waiting jobs a line may have; None: as many as there are."""
        return None if name is None or name[0] == "@" else self.group_size

    @property
    def limited(self) -> bool:
        """Whether the queue or some line has a limit, so that nothing may be prefetched."""
        lines = (self.groups, *self.lines.values())
        return (self.concurrency, self.rate) != (None, None) or any(
            (one.concurrency, one.rate) != (None, None) for one in lines
        )


_FREE = LineSettings()


class Standing(msgspec.Struct, frozen=True):
    """What a waiting job stands behind, for people who wonder why it does not run.

    `ahead`: waiting jobs before it in its line. `line_waiting`, `line_active`: jobs of its line.
    `active`: jobs of its queue. `lines`: lines of the queue that have waiting jobs.
    `opens_in`, `line_opens_in`: milliseconds until the rate, or a hold, of the queue or of the
    line lets a job start; 0 if it does now.
    """

    ahead: int
    line_waiting: int
    line_active: int
    active: int
    lines: int
    opens_in: int = 0
    line_opens_in: int = 0
