"""Invocations: one call of a handler, as a coroutine in a lane or in a thread.

An invocation is awaited once, in its lane. It returns what the handler returned, or `Raised`
around whatever the handler raised: an exception that leaves an `await` of one is never the
handler's.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from concurrent.futures import Executor
from inspect import isawaitable
from types import CoroutineType
from typing import Any, Protocol

from taskmux.api.context import Context
from taskmux.worker import forks

__all__ = ["CoroutineInvocation", "Invocation", "Lane", "Raised", "ThreadInvocation"]

_run: contextvars.ContextVar[tuple[Lane, int]] = contextvars.ContextVar("taskmux_run")
"""In whose run something was begun: timers and tasks of a handler carry it on."""


class Lane(asyncio.Task[Any]):
    """The task that handlers run in, one after the other.

    What a handler left behind, such as `call_later(1, current_task().cancel)`, cancels no run that
    comes after its own.
    """

    runs = 0
    """How many have ended."""

    @classmethod
    def begin(cls, coroutine: Coroutine[Any, Any, Any]) -> Lane:
        """Begin one in the running loop, past any task factory."""
        return cls(coroutine, loop=asyncio.get_running_loop())

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel it, unless this is the doing of a run that has ended here."""
        lane, number = _run.get((None, 0))
        return False if lane is self and number != self.runs else super().cancel(msg)

    def stop(self) -> None:
        """Cancel it, whoever the caller was begun by: the worker itself, when it stops."""
        super().cancel()


class Raised:
    """What a handler raised instead of returning.

    `cut_off`: somebody else than the handler had cancelled the lane while the handler waited.
    """

    __slots__ = ("cut_off", "error")

    def __init__(self, error: BaseException, *, cut_off: bool = False) -> None:
        self.error = error
        self.cut_off = cut_off


class Invocation(Protocol):
    """A call of a handler that can be stopped."""

    def interrupt(self) -> None:
        """Stop it, as far as that can be done. Called in the worker's event loop."""
        ...

    def __await__(self) -> Generator[Any, Any, Any]:
        """Run it; return what the handler returned, or `Raised`."""
        ...


class CoroutineInvocation:
    """Runs a handler's coroutine in the lane's task, with context variables of its own.

    There is no task for each job, so the lane goes on to others in the same one: what one handler
    sets, the next must not see.
    """

    __slots__ = ("_args", "_context", "_function", "_lane", "_named", "_variables")

    def __init__(  # noqa: PLR0917 - one a job, and by place it is made faster
        self,
        function: Callable[..., Awaitable[Any]],
        args: Sequence[Any],
        named: Mapping[str, Any],
        variables: contextvars.Context,
        lane: Lane,
        context: Context | None,
    ) -> None:
        self._function = function
        self._args = args
        self._named = named
        self._variables = variables
        self._lane = lane
        self._context = context

    def interrupt(self) -> None:
        """Cancel it at the point where it waits."""
        if self._context is not None:
            self._context.ask_to_cancel()
        self._lane.stop()

    def __await__(self) -> Generator[Any, Any, Any]:  # noqa: C901 - a call more costs every step
        run, lane, cut_off = self._variables.run, self._lane, False
        argument: Any = None
        generation = forks.count
        run(_run.set, (lane, lane.runs))
        try:
            coroutine: Any = self._function(*self._args, **self._named)
            if type(coroutine) is not CoroutineType:
                coroutine = _awaited(coroutine)
        except BaseException as error:  # noqa: BLE001 - as below
            return Raised(error)
        step: Callable[[Any], Any] = coroutine.send
        while True:
            try:
                awaited = run(step, argument)
            except StopIteration as done:
                return done.value
            except BaseException as error:  # noqa: BLE001 - the handler's, whatever it is
                argument = None  # this frame is in the error's traceback, and must not hold it
                return Raised(error, cut_off=cut_off)
            if forks.count != generation:  # this very step has forked
                forks.alone(coroutine, self._variables, awaited)
            if awaited is not None and not isinstance(awaited, asyncio.Future):
                try:
                    awaited = _of_ours(awaited)
                except BaseException as error:  # noqa: BLE001 - as above
                    step, argument = coroutine.throw, error
                    continue
            asked = lane.cancelling()  # by the handler itself
            try:
                argument = yield awaited
                if forks.count != generation:  # other code forked, and the child came here
                    forks.leave(1)
                step = coroutine.send
            except GeneratorExit:  # the event loop is gone
                run(coroutine.close)
                raise
            except BaseException as error:  # noqa: BLE001 - it goes into the handler
                cut_off = lane.cancelling() > asked
                step, argument = coroutine.throw, error


def _of_ours(awaited: Any) -> Any:
    """Return a future of asyncio's own in the place of one of another make.

    asyncio gives a task up for good if it cannot add its callback to what the task waits for. So
    that is done here, where what it raises can go into the handler.
    """
    if not getattr(awaited, "_asyncio_future_blocking", False):
        return awaited  # asyncio has an error of its own for what is no future
    ours: Any = asyncio.get_running_loop().create_future()
    awaited.add_done_callback(lambda _: ours.done() or ours.set_result(None))
    awaited._asyncio_future_blocking = False  # noqa: SLF001 - the protocol of futures
    ours.add_done_callback(lambda _: ours.cancelled() and awaited.cancel())
    ours._asyncio_future_blocking = True  # noqa: SLF001 - as above
    return ours


class ThreadInvocation:
    """Runs a sync handler in a thread and waits for its end, whoever asks it to stop.

    Settling the job while its thread still runs would let the job run twice at once, with no
    lapsed lease. There is a thread for each lane, so it begins at once. What it returns is awaited
    in the lane if it can be: an async handler under an ordinary decorator.

    Args:
        call: the handler, with its arguments.
        variables: the context variables of the run.
        lane: the task that waits for it.
        context: the handler's context, by which it sees that it should stop.
        threads: where it runs.
        given_up: says whether the worker waits for nobody any more.
    """

    __slots__ = (
        "_awaiting",
        "_call",
        "_context",
        "_given_up",
        "_lane",
        "_stopped",
        "_threads",
        "_variables",
    )

    def __init__(
        self,
        call: Callable[[], Any],
        *,
        variables: contextvars.Context,
        lane: Lane,
        context: Context | None,
        threads: Executor,
        given_up: Callable[[], bool],
    ) -> None:
        self._call = call
        self._variables = variables
        self._lane = lane
        self._context = context
        self._threads = threads
        self._given_up = given_up
        self._stopped = False
        self._awaiting: CoroutineInvocation | None = None

    def interrupt(self) -> None:
        """Let the handler see `ctx.cancel_requested`: a thread cannot be stopped."""
        self._stopped = True
        if self._awaiting is not None:
            self._awaiting.interrupt()
        elif self._context is not None:
            self._context.ask_to_cancel()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._run().__await__()

    async def _run(self) -> Any:
        ended = await self._in_thread()
        if type(ended) is Raised or not _can_be_awaited(ended):
            return ended
        self._awaiting = CoroutineInvocation(
            _awaited, (ended,), {}, self._variables, self._lane, self._context
        )
        if self._stopped:
            self._awaiting.interrupt()
        return await self._awaiting

    async def _in_thread(self) -> Any:
        loop = asyncio.get_running_loop()
        thread = loop.run_in_executor(self._threads, _called, self._variables, self._call)
        while not thread.done():
            try:
                await asyncio.wait([thread])
            except asyncio.CancelledError:
                if self._given_up():
                    raise
        return thread.result()


def _called(variables: contextvars.Context, call: Callable[[], Any]) -> Any:
    """Call it; return what it returned, or `Raised`: futures cannot carry every exception."""
    before, ended = forks.count, None
    try:
        ended = variables.run(call)
    except BaseException as error:  # noqa: BLE001 - the handler's, whatever it is
        ended = Raised(error)
    if forks.count != before:
        forks.leave(ended.error if type(ended) is Raised else None)
    return ended


def _can_be_awaited(value: object) -> bool:
    try:
        return isawaitable(value)
    except BaseException:  # noqa: BLE001 - an object that lies about its class
        return False


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value
