"""Tasks: registered handlers with their options, typed by four overloads of the decorator."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Protocol,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from msgspec import UNSET

from taskmux.api.blocking import Portal
from taskmux.api.call import Call, Terms, task_line
from taskmux.api.codec import Signature
from taskmux.api.context import Context
from taskmux.api.handle import JobHandle
from taskmux.api.handlers import handler
from taskmux.api.hints import meant_verb
from taskmux.api.naming import redefines
from taskmux.api.options import JobOptions, Parsed, parse_call
from taskmux.model.backoff import DEFAULT_BACKOFF
from taskmux.model.errors import DeclarationError
from taskmux.model.queue import LineSettings

__all__ = [
    "BlockingTask",
    "Producer",
    "Registry",
    "Task",
    "TaskDecorator",
    "decorator",
]

Args = ParamSpec("Args")
Whole = ParamSpec("Whole")
Out = TypeVar("Out")
R = TypeVar("R")


class Producer(Portal, Protocol):
    """What a task needs of its app: a place to store calls."""

    @property
    def payload_limit(self) -> int:
        """The most bytes a payload may take."""
        ...

    async def submit(self, call: Call[R]) -> JobHandle[R]:
        """Store a call as a job."""
        ...


class Task(Generic[Whole, Args, Out, R]):
    """A registered handler. Calling it runs the function itself, as in a unit test.

    `Whole` and `Out` are the function's own parameters and return; `Args` leaves the context out,
    and `R` is what a job's `result()` gives.
    """

    def __init__(
        self,
        name: str,
        function: Callable[Whole, Out],
        options: Parsed,
        producer: Producer,
        *,
        base: Parsed,
        limits: LineSettings | None = None,
    ) -> None:
        self.name = name
        self.function: Callable[Whole, Out] = handler(function, name)
        self.limits = limits
        """The limits of its own line; None: it stands in the queue's common line."""
        self.signature = Signature(self.function, name, Context)
        self.is_async = inspect.iscoroutinefunction(self.function)
        self._producer = producer
        self.__doc__ = function.__doc__
        self._settle(options, base)

    def _settle(self, said: Parsed, base: Parsed) -> None:
        line = None if self.limits is None else task_line(self.name)
        self._terms = Terms.settled(said, base, line)
        backoff = self._terms.options.backoff
        self.backoff = DEFAULT_BACKOFF if backoff is UNSET else backoff

    @property
    def queue(self) -> str:
        """The queue of its jobs, unless a call names another."""
        queue = self._terms.options.queue
        return "default" if queue is UNSET else queue

    def __call__(self, *args: Whole.args, **kwargs: Whole.kwargs) -> Out:
        """Run the function itself, here and now; nothing is enqueued."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    if not TYPE_CHECKING:  # or every name would be an attribute

        def __getattr__(self, name: str) -> Any:
            """Say how taskmux calls a verb of another queue."""
            message = f"'Task' object has no attribute {name!r}{meant_verb(name)}"
            raise AttributeError(message, name=name, obj=self)

    async def enqueue(self, *args: Args.args, **kwargs: Args.kwargs) -> JobHandle[R]:
        """Store a job that will run this task with these arguments.

        Raises:
            InvalidArguments, NotEncodable, PayloadTooLarge: before anything is sent.
            StoreError: the store refused or could not be reached; the job may be stored all the
                same. With an `id` it can be enqueued again.
        """
        return await self._producer.submit(self.bind(*args, **kwargs))

    def bind(self, *args: Args.args, **kwargs: Args.kwargs) -> Call[R]:
        """Return a call: arguments checked and encoded, nothing sent.

        Raises:
            InvalidArguments, NotEncodable, PayloadTooLarge: the arguments cannot travel.
        """
        payload = self.signature.encode(args, kwargs, self._producer.payload_limit)
        return Call(self.name, payload, self._terms, self.signature.returns)

    def bind_named(self, arguments: Mapping[str, Any]) -> Call[R]:
        """Return a call with arguments by parameter name: `bind(**arguments)`, not type-checked.

        Raises:
            InvalidArguments, NotEncodable, PayloadTooLarge: the arguments cannot travel.
        """
        payload = self.signature.encode_named(arguments, self._producer.payload_limit)
        return Call(self.name, payload, self._terms, self.signature.returns)

    def options(self, **options: Unpack[JobOptions]) -> Task[Whole, Args, Out, R]:
        """Return this task with other options for the calls made through it.

        Raises:
            DeclarationError, InvalidName: an option is wrong.
        """
        parsed = parse_call(options)
        other: Task[Whole, Args, Out, R] = object.__new__(Task)
        other.__dict__.update(self.__dict__)
        other._settle(parsed.over(self._terms.said), self._terms.base)
        return other

    @property
    def blocking(self) -> BlockingTask[Args, R]:
        """The same for code without an event loop: Flask, Django, scripts."""
        return BlockingTask(self, self._producer)


class BlockingTask(Generic[Args, R]):
    """A task's verbs for synchronous code."""

    def __init__(self, task: Task[Any, Args, Any, R], producer: Producer) -> None:
        self._task = task
        self._producer = producer

    def enqueue(self, *args: Args.args, **kwargs: Args.kwargs) -> JobHandle[R]:
        """Store a job and wait until the store has it; see `Task.enqueue`."""
        call = self._task.bind(*args, **kwargs)
        return self._producer.run_blocking(lambda: self._producer.submit(call))


class TaskDecorator(Protocol):
    """What `@mux.task(...)` makes of a function.

    The order of the overloads matters: the first that fits is taken, and a function with a
    context fits those without one as well.
    """

    @overload
    def __call__(
        self, function: Callable[Concatenate[Context, Args], Awaitable[R]], /
    ) -> Task[Concatenate[Context, Args], Args, Awaitable[R], R]: ...
    @overload
    def __call__(
        self, function: Callable[Args, Awaitable[R]], /
    ) -> Task[Args, Args, Awaitable[R], R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Context, Args], R], /
    ) -> Task[Concatenate[Context, Args], Args, R, R]: ...
    @overload
    def __call__(self, function: Callable[Args, R], /) -> Task[Args, Args, R, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        """Register the function as a task."""
        ...


AnyTask = Task[Any, Any, Any, Any]


class Registry:
    """The tasks of an app, by name."""

    def __init__(self) -> None:
        self._tasks: dict[str, AnyTask] = {}

    def add(self, task: AnyTask) -> None:
        """Register a task; one that is defined again takes the place of the first.

        Raises:
            DeclarationError: another function has the name.
        """
        known = self._tasks.get(task.name)
        if known is not None and not redefines(task.function, known.function):
            raise DeclarationError(
                f"Two functions are registered as task {task.name!r}: "
                f"{_where(known.function)} and {_where(task.function)}. Give one another name: "
                f"@mux.task(name=...)."
            )
        self._tasks[task.name] = task

    def get(self, name: str) -> AnyTask | None:
        """Return the task of that name, or None."""
        return self._tasks.get(name)

    def lines(self, queue: str) -> dict[str, LineSettings | None]:
        """Return what the tasks of a queue declare of their own lines; None: they have none."""
        tasks = (task for task in self._tasks.values() if task.queue == queue)
        return {task_line(task.name): task.limits for task in tasks}

    def names(self) -> tuple[str, ...]:
        """Return the names of all tasks, sorted."""
        return tuple(sorted(self._tasks))


def _where(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{getattr(function, '__qualname__', function)}"


def decorator(make: Callable[[Callable[..., Any]], AnyTask]) -> TaskDecorator:
    """Return `make` under the decorator's type."""
    return cast("TaskDecorator", make)
