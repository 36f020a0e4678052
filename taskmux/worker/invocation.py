"""Invocations: one call of a handler, as a coroutine in a lane or in a thread.

An invocation is awaited once, in its lane. It returns what the handler returned, or `Raised`
around whatever the handler raised: an exception that leaves an `await` of one is never the
handler's.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from concurrent.futures import Executor
from inspect import isawaitable
from types import CoroutineType
from typing import Any, Protocol

from taskmux.api.context import Context
from taskmux.worker import forks

__all__ = ["CoroutineInvocation", "Invocation", "Lane", "Raised", "ThreadInvocation"]

Lane = asyncio.Task[Any]
"""The task that handlers run in, one after the other."""


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
        self._lane.cancel()

    def __await__(self) -> Generator[Any, Any, Any]:
        run, lane, cut_off = self._variables.run, self._lane, False
        argument: Any = None
        generation = forks.count
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
