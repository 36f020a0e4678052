"""The checker: what the journal and the store must say together after a chaos run.

At least once, and everything it promises: nothing acknowledged is lost, nothing is made up, each
job ends once, and a job runs twice only where a lease lapsed or was given back, in which case the
run that lost it has no say any more.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from taskmux.driver import TERMINAL, JobRecord, Ref, State

from harness.journal import Acked, Entry, Fault, Intent, LeaseLost, Settled, Started

__all__ = ["Evidence", "Report", "check"]


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What a run left behind.

    `lease` is in seconds; `total` is the sum of the state counts that the store gave; `poison`
    are the jobs whose handler kills its process.
    """

    entries: Sequence[Entry]
    records: Mapping[Ref, JobRecord]
    total: int
    lease: float
    poison: frozenset[Ref] = frozenset()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. A run is good if there are no violations."""

    violations: Sequence[str]
    jobs: int
    starts: int
    duplicates: Mapping[str, int]
    """Second and later starts of a job, by what explains them."""
    zombies: int
    """Runs that were told that their lease is lost."""
    faults: Mapping[str, int]
    seconds: float
    """From the first start to the last outcome."""

    def __str__(self) -> str:
        rate = self.jobs / self.seconds if self.seconds else 0.0
        return (
            f"{self.jobs} jobs in {self.seconds:.1f} s ({rate:.0f}/s); {self.starts} starts, "
            f"more than one per job: {dict(self.duplicates)}; zombies refused: {self.zombies}; "
            f"faults: {dict(self.faults)}; violations: {len(self.violations)}"
        )


def check(evidence: Evidence) -> Report:
    """Compare what was seen with what is stored."""
    seen = _Seen(evidence)
    duplicates: Counter[str] = Counter()
    violations = [
        *_lost(seen),
        *_unexpected(seen),
        *_sums(seen),
        *_fences(seen),
        *_ends(seen),
        *_zombies(seen),
        *_explain(seen, duplicates),
    ]
    times = [entry.at for entry in evidence.entries if isinstance(entry, Started | Settled)]
    zombies = {(one.ref, one.fence) for one in evidence.entries if isinstance(one, LeaseLost)}
    return Report(
        violations=violations,
        jobs=len(evidence.records),
        starts=sum(map(len, seen.starts.values())),
        duplicates=duplicates,
        zombies=len(zombies),
        faults=Counter(one.name for one in evidence.entries if isinstance(one, Fault)),
        seconds=max(times, default=0.0) - min(times, default=0.0),
    )


# -- what was seen, by job and by process ---------------------------------------------------------


class _Start(msgspec.Struct, frozen=True):
    """A start, and its place in the journal."""

    place: int
    fence: int
    pid: int
    awoken: bool
    """Whether it is the first line that its process wrote after having been stopped."""


class _Break(msgspec.Struct, frozen=True):
    """A time during which a process did nothing, in places of the journal, with its reason."""

    since: int
    until: float
    long: bool
    reason: str

    def overlaps(self, begin: int, end: int) -> bool:
        """Say whether it lies, at least in part, between two places of the journal."""
        return self.since < end and self.until > begin


class _Seen:
    """The evidence, sorted."""

    def __init__(self, evidence: Evidence) -> None:
        self.records = evidence.records
        self.total = evidence.total
        self.poison = evidence.poison
        self.intended: set[Ref] = set()
        self.acked: set[Ref] = set()
        self.starts: defaultdict[Ref, list[_Start]] = defaultdict(list)
        self.settled: defaultdict[Ref, list[Settled]] = defaultdict(list)
        self.breaks: defaultdict[int, list[_Break]] = defaultdict(list)
        asleep: dict[int, tuple[int, float]] = {}
        awoken: set[int] = set()
        for place, entry in enumerate(evidence.entries):
            match entry:
                case Fault():
                    self._fault(place, entry, asleep, evidence.lease)
                    if entry.name == "SIGCONT":
                        awoken.add(entry.pid)
                    continue  # written by the injector, not by the process
                case Intent():
                    self.intended.add(entry.ref)
                case Acked():
                    self.acked.add(entry.ref)
                case Started():
                    start = _Start(place, entry.fence, entry.pid, entry.pid in awoken)
                    self.starts[entry.ref].append(start)
                case Settled():
                    self.settled[entry.ref].append(entry)
                case _:
                    pass
            awoken.discard(entry.pid)
        for pid, (since, _) in asleep.items():
            self.breaks[pid].append(_Break(since, float("inf"), True, "holder stopped"))
        self.stops = [
            one
            for breaks in self.breaks.values()
            for one in breaks
            if one.long and one.reason == "holder stopped"
        ]

    def _fault(
        self, place: int, fault: Fault, asleep: dict[int, tuple[int, float]], lease: float
    ) -> None:
        match fault.name:
            case "SIGKILL" | "exit":
                gone = _Break(place, float("inf"), True, "holder killed")
                self.breaks[fault.pid].append(gone)
            case "SIGSTOP":
                asleep[fault.pid] = place, fault.at
            case "SIGCONT":
                since, at = asleep.pop(fault.pid)
                long = fault.at - at > lease
                self.breaks[fault.pid].append(_Break(since, place, long, "holder stopped"))


# -- the invariants: each yields what is wrong -------------------------------------------------


def _lost(seen: _Seen) -> Iterator[str]:
    for ref in sorted(seen.acked, key=str):
        record = seen.records.get(ref)
        wanted = State.DEAD if ref in seen.poison else State.COMPLETED
        if record is None:
            yield f"lost: {ref} was acknowledged and is not stored"
        elif record.state is not wanted:
            yield f"lost: {ref} is {record.state} and not {wanted} ({record.reason})"


def _unexpected(seen: _Seen) -> Iterator[str]:
    for ref in sorted(set(seen.records) - seen.intended, key=str):
        yield f"unexpected: {ref} is stored and nobody pushed it"
    for ref in sorted(set(seen.starts) - seen.intended, key=str):
        yield f"unexpected: {ref} was run and nobody pushed it"


def _sums(seen: _Seen) -> Iterator[str]:
    if seen.total != len(seen.records):
        yield f"counts: they add up to {seen.total}, and {len(seen.records)} jobs are stored"


def _fences(seen: _Seen) -> Iterator[str]:
    """Fences rise from start to start.

    One thing is beyond any worker: being stopped between its last look at the lease and the first
    line of the handler. Such a start is the very first thing its process does when it goes on.
    """
    for ref, starts in seen.starts.items():
        highest = 0
        for start in starts:
            if start.fence <= highest and not start.awoken:
                yield f"fences: {ref} was started under {start.fence} after {highest}"
            highest = max(highest, start.fence)


def _ends(seen: _Seen) -> Iterator[str]:
    """One terminal transition is taken for each job, and it is the one that is stored."""
    for ref, settled in seen.settled.items():
        ends = [one for one in settled if one.to in TERMINAL]
        if len(ends) > 1:
            yield f"ends: {ref} ended {len(ends)} times, under {[one.fence for one in ends]}"
        record = seen.records.get(ref)
        for one in ends:
            if record is not None and (record.state, record.fence) != (one.to, one.fence):
                yield (
                    f"ends: {ref} ended as {one.to} under {one.fence}, and is stored as "
                    f"{record.state} under {record.fence}"
                )


def _zombies(seen: _Seen) -> Iterator[str]:
    """The stored outcome is that of the last claim; the handlers return their fence."""
    for ref, record in seen.records.items():
        if record.state is State.COMPLETED and record.result != str(record.fence).encode():
            yield f"zombies: {ref} under {record.fence} has the result {record.result!r}"
        later = [one.fence for one in seen.starts[ref] if one.fence > record.fence]
        if record.state in TERMINAL and later:
            yield f"zombies: {ref} ended under {record.fence}, yet ran under {later}"


def _explain(seen: _Seen, duplicates: Counter[str]) -> Iterator[str]:
    for ref, starts in seen.starts.items():
        ordered = sorted(starts, key=lambda start: start.fence)
        for first, second in itertools.pairwise(ordered):
            why = _explanation(seen, ref, first, second)
            if why is None:
                yield (
                    f"twice: {ref} was started under {first.fence} by {first.pid} and under "
                    f"{second.fence} by {second.pid}, and no lease lapsed"
                )
            else:
                duplicates[why] += 1


def _explanation(seen: _Seen, ref: Ref, first: _Start, second: _Start) -> str | None:
    """Return why a job was started again: what became of the first run's lease."""
    if any(one.fence == first.fence and one.to not in TERMINAL for one in seen.settled[ref]):
        return "given back"
    begin, end = sorted((first.place, second.place))
    for one in seen.breaks[first.pid]:
        if one.long and one.overlaps(begin, end):
            return one.reason
    # A process that was stopped within a transaction keeps a store with one lock from renewing
    # anybody's lease. Taking a lapsed lease raises the fence, and so does the claim after it.
    reclaimed = second.fence - first.fence > 1
    if reclaimed and any(one.overlaps(begin, end) for one in seen.stops):
        return "store stood still"
    record = seen.records.get(ref)
    for attempt in () if record is None else record.history:
        if attempt.outcome == "crashed" and first.fence <= attempt.fence < second.fence:
            return "lapse recorded"
    return None
