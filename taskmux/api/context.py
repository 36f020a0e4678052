"""What a handler is given about its run, and what it can leave on its job's record."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future as ThreadFuture
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from taskmux.api.codec import decode_value, encode_value, result_type, step_type
from taskmux.config import Limits
from taskmux.driver import Applied, ApplyStatus, Note
from taskmux.model.errors import (
    ConfigError,
    DeclarationError,
    LeaseLost,
    NotDecodable,
    PayloadTooLarge,
)
from taskmux.model.job import JobRecord, State
from taskmux.model.units import check_name, storable

__all__ = ["BlockingContext", "Context", "Sent"]

P = ParamSpec("P")
R = TypeVar("R")


class Notes(Protocol):
    """Where a run's notes go: the worker's group commit."""

    def ask(self, item: Note) -> asyncio.Future[Applied]:
        """Send a note with the next batch."""
        ...


class Sent:
    """A note on its way. Await it (or `wait()` in a sync handler) to know that it is stored."""

    def __init__(self, future: ThreadFuture[Applied], job: JobRecord) -> None:
        self._future = future
        self._job = job

    def __await__(self) -> Generator[Any, None, None]:
        applied = yield from asyncio.wrap_future(self._future).__await__()
        self._check(applied)

    def wait(self, timeout: float | None = None) -> None:
        """Block until the note is stored; for sync handlers.

        Raises:
            LeaseLost: the job is no longer this run's.
            TimeoutError: not stored after `timeout` seconds.
            ConfigError: called in an event loop, which it would block for good.
        """
        if not self._future.done() and _running_loop() is not None:
            raise ConfigError(
                "ctx.blocking and wait() are for sync handlers: here they would stop the event "
                "loop. Await it: await ctx.log(...), await ctx.progress(...), await ctx.step(...)."
            )
        self._check(self._future.result(timeout))

    def _check(self, applied: Applied) -> None:
        if applied.status is not ApplyStatus.APPLIED:
            raise LeaseLost(
                f"Job {self._job.ref} is no longer held by this run (fence {self._job.fence}): "
                f"its lease lapsed and it may run elsewhere. Stop; nothing more will be stored."
            )


class Context:
    """One run of a job, as its handler sees it.

    Attributes:
        job: the record as it was claimed.
        worker: the id of the worker that runs it.
        state: what the app's `lifespan` yielded.
    """

    def __init__(
        self,
        job: JobRecord,
        *,
        worker: str = "none",
        state: Any = None,
        notes: Notes | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.job = job
        self.worker = worker
        self.state = state
        self._notes = notes
        self._limits = limits or Limits()
        self._loop = asyncio.get_running_loop() if notes is not None else None
        self._steps = dict(job.steps)
        self._begun: set[str] = set()
        """The names of this run's steps, but for those that failed."""
        self._lines = len(job.logs)
        self._cancel = job.cancel_requested

    @classmethod
    def detached(cls, *, id: str = "test", attempt: int = 1, state: Any = None) -> Context:  # noqa: A002 - the word users know
        """Return a context for calling a handler directly, as in a unit test: it stores nothing."""
        job = JobRecord(
            queue="test",
            id=id,
            task="test",
            state=State.ACTIVE,
            attempts=attempt - 1,
            fence=time.time_ns() // 1_000_000,
        )
        return cls(job, state=state)

    @property
    def id(self) -> str:
        """The job's id."""
        return self.job.id

    @property
    def queue(self) -> str:
        """The job's queue."""
        return self.job.queue

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return self.job.attempts + 1

    @property
    def fence(self) -> int:
        """The fencing token: rises at every claim. Send it along with writes to other systems."""
        return self.job.fence

    @property
    def cancel_requested(self) -> bool:
        """Whether somebody asked the job to cancel; async handlers are also cancelled."""
        return self._cancel

    @property
    def blocking(self) -> BlockingContext:
        """The same for sync handlers, which run in threads."""
        return BlockingContext(self)

    def progress(self, value: Any) -> Sent:
        """Store how far the job is: any JSON value, such as a percentage.

        Raises:
            NotEncodable, PayloadTooLarge: the value cannot travel.
            LeaseLost: when awaited, if the job is no longer this run's.
        """
        data = encode_value(value, "The progress", self._limits.progress)
        return self._post(Note(ref=self.job.ref, fence=self.job.fence, progress=data))

    def log(self, line: str) -> Sent:
        """Add a line to the job's log; lines beyond the limit are not stored.

        Raises:
            LeaseLost: when awaited, if the job is no longer this run's.
        """
        if self._lines >= self._limits.log_lines:
            return Sent(_stored(), self.job)
        index, self._lines = self._lines, self._lines + 1
        text = storable(str(line), self._limits.log_line)
        return self._post(Note(ref=self.job.ref, fence=self.job.fence, log=text, log_index=index))

    @overload
    async def step(
        self, name: str, function: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def step(
        self, name: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    async def step(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a function once per job: after a crash or a retry its stored result is returned.

        What it returns is always what was stored, read by the return annotation of the function,
        on the first run as on later ones. Without an annotation that is what JSON has: a dict for
        a dataclass, text for a datetime. A function that raises has stored nothing and may be
        tried again.

        Args:
            name: tells the job's steps apart. It must not come twice in one run: in a loop put
                what differs into it, f"send:{user_id}".
            function: sync or async.
            args: its arguments by place.
            kwargs: its arguments by name.

        Raises:
            DeclarationError: a step of this name has begun in this run.
            NotEncodable, PayloadTooLarge: the result cannot be stored.
            NotDecodable: the stored result does not fit the annotation.
            LeaseLost: the job is no longer this run's; the result was not stored.
        """
        self._begin(name)
        try:
            if name not in self._steps:
                result = function(*args, **kwargs)
                if inspect.isawaitable(result):
                    result = await result
                await self._remember(name, function, result)
            return self._recall(name, function)
        except BaseException:
            self._begun.discard(name)
            raise

    def _begin(self, name: str) -> None:
        check_name(name, "step name")
        if name in self._begun:
            raise DeclarationError(
                f"Step {name!r} has begun in this run before, and a step's result is found by its "
                f"name. Give each its own: in a loop, put what differs into it, such as "
                f"{name}:{len(self._begun)}."
            )
        self._begun.add(name)

    def _recall(self, name: str, function: Callable[..., Any]) -> Any:
        what = f"The stored result of step {name!r}"
        try:
            return decode_value(self._steps[name], result_type(function), what)
        except NotDecodable as error:
            raise NotDecodable(
                f"{error} Mend the return type of the step's function: then the job goes on with "
                f"what is stored."
            ) from None

    def _remember(self, name: str, function: Callable[..., Any], result: Any) -> Sent:
        kind = step_type(function)
        encode = encode_value if kind is None else kind.encode
        data = encode(result, f"The result of step {name!r}", self._limits.result)
        total = len(data) + sum(map(len, self._steps.values()))
        if total > self._limits.result:
            raise PayloadTooLarge(
                f"With step {name!r} the job's step results take {total:,} bytes; the limit is "
                f"{self._limits.result:,}. Store the bulk elsewhere and return a reference."
            )
        self._steps[name] = data
        return self._post(Note(ref=self.job.ref, fence=self.job.fence, steps={name: data}))

    def _post(self, note: Note) -> Sent:
        if self._notes is None or self._loop is None:
            return Sent(_stored(), self.job)
        notes = self._notes
        reply: ThreadFuture[Applied] = ThreadFuture()

        def send() -> None:
            notes.ask(note).add_done_callback(lambda done: _copy(done, reply))

        if _running_loop() is self._loop:
            send()
        else:
            self._loop.call_soon_threadsafe(send)
        return Sent(reply, self.job)

    def ask_to_cancel(self) -> None:
        """Let a polling handler see that it should stop. Called by the worker."""
        self._cancel = True


class BlockingContext:
    """A context's verbs for sync handlers: each returns when its note is stored."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def progress(self, value: Any) -> None:
        """Store how far the job is; see `Context.progress`."""
        self._context.progress(value).wait()

    def log(self, line: str) -> None:
        """Add a line to the job's log; see `Context.log`."""
        self._context.log(line).wait()

    def step(self, name: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a sync function once per job; see `Context.step`.

        Raises:
            DeclarationError: the function is async.
        """
        if inspect.iscoroutinefunction(function):
            raise DeclarationError(
                f"Step {name!r} is async. Make the handler async and await ctx.step(...)."
            )
        context = self._context
        context._begin(name)  # noqa: SLF001 - the same unit
        try:
            if name not in context._steps:  # noqa: SLF001 - the same unit
                result = function(*args, **kwargs)
                context._remember(name, function, result).wait()  # noqa: SLF001 - the same unit
            value: R = context._recall(name, function)  # noqa: SLF001 - the same unit
        except BaseException:
            context._begun.discard(name)  # noqa: SLF001 - the same unit
            raise
        return value


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _stored() -> ThreadFuture[Applied]:
    done: ThreadFuture[Applied] = ThreadFuture()
    done.set_result(Applied(ApplyStatus.APPLIED))
    return done


def _copy(source: asyncio.Future[Applied], target: ThreadFuture[Applied]) -> None:
    if target.done():  # who waited for it was cancelled
        return
    error = None if source.cancelled() else source.exception()
    if source.cancelled():
        target.cancel()
    elif error is not None:
        target.set_exception(error)
    else:
        target.set_result(source.result())
