"""Tasks: registered handlers with their options, typed by four overloads of the decorator."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import (
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

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from taskmux.api.codec import Signature
from taskmux.api.context import Context
from taskmux.api.handle import JobHandle, Portal
from taskmux.api.handlers import handler
from taskmux.api.options import JobOptions, Parsed, decode_defaults, parse_call
from taskmux.driver import NewJob
from taskmux.model.backoff import DEFAULT_BACKOFF
from taskmux.model.errors import DeclarationError
from taskmux.model.ids import new_id
from taskmux.model.job import JobRecord, Policy, State
from taskmux.model.queue import LineSettings, QueueSettings

__all__ = [
    "BlockingTask",
    "Call",
    "Producer",
    "Registry",
    "Task",
    "TaskDecorator",
    "Terms",
    "decorator",
    "task_line",
]

Args = ParamSpec("Args")
Whole = ParamSpec("Whole")
Out = TypeVar("Out")
R = TypeVar("R")

NO_SETTINGS = QueueSettings()


class Terms(msgspec.Struct, frozen=True):
    """What is said about a call's job: by the call over its task, and by the app as a default.

    `line`: the line of the call's task, if that has one of its own. `queue`: where it goes.
    `options` and `policy` are what follows where the queue says nothing.
    """

    said: Parsed
    base: Parsed
    line: str | None = None
    queue: str = "default"
    options: Parsed = Parsed()
    policy: Policy = Policy()

    @classmethod
    def settled(cls, said: Parsed, base: Parsed, line: str | None = None) -> Terms:
        """Return terms with what follows from them.

        Raises:
            DeclarationError: a group is given, and the task has a line of its own.
        """
        options = said.over(base)
        if line is not None and options.group is not UNSET:
            raise _two_lines(options.group, line[1:])
        queue = "default" if options.queue is UNSET else options.queue
        return cls(said, base, line, queue, options, options.policy())

    def under(self, queue: QueueSettings) -> tuple[Parsed, Policy]:
        """Return what holds in a queue with these settings: call > task > queue > app."""
        if queue.defaults is None:
            return self.options, self.policy
        defaults = decode_defaults(queue.defaults)
        if self.said.backoff is not UNSET:  # a task's own, which is not stored with its jobs
            defaults = replace(defaults, call_backoff=UNSET)
        options = self.said.over(defaults).over(self.base)
        return options, options.policy()


class Call(Generic[R]):
    """A task with bound arguments, checked and encoded, not enqueued yet."""

    __slots__ = ("payload", "returns", "task", "terms")

    def __init__(self, task: str, payload: bytes, terms: Terms, returns: Any = Any) -> None:
        self.task = task
        self.payload = payload
        self.terms = terms
        self.returns = returns

    @property
    def options(self) -> Parsed:
        """What is said about its job, where the queue says nothing."""
        return self.terms.options

    @property
    def queue(self) -> str:
        """The queue that the job goes to."""
        return self.terms.queue

    @property
    def session(self) -> Any:
        """The application's transaction that it goes into, or None."""
        session = self.options.session
        return None if session is UNSET else session

    def new_job(self, queue: QueueSettings = NO_SETTINGS) -> NewJob:
        """Return the job that this call becomes in a queue with these settings.

        It has an id of its own unless one was given.

        Raises:
            DeclarationError: it has a group, and its task a line of its own there.
        """
        said, policy = self.terms.under(queue)
        line = self._line(queue)
        if line is not None and said.group is not UNSET:
            raise _two_lines(said.group, self.task)
        delay = 0 if said.delay is UNSET else said.delay
        run_at = None if said.run_at is UNSET else said.run_at
        later = delay > 0 or run_at is not None
        job = JobRecord(
            queue=self.queue,
            id=new_id() if said.id is UNSET else said.id,
            task=self.task,
            payload=self.payload,
            policy=policy,
            priority=100 if said.priority is UNSET else said.priority,
            lifo=False if said.lifo is UNSET else said.lifo,
            group=line if said.group is UNSET else said.group,
            tags=() if said.tags is UNSET else said.tags,
            headers={} if said.headers is UNSET else said.headers,
            dedup=None if said.dedup is UNSET else said.dedup,
            state=State.DELAYED if later else State.WAITING,
            run_at=run_at,
        )
        return NewJob(job, delay)

    def _line(self, queue: QueueSettings) -> str | None:
        """Return the task's own line, which a producer that lacks the task learns of the store."""
        if self.terms.line is None and queue.lines and task_line(self.task) in queue.lines:
            return task_line(self.task)
        return self.terms.line


def _two_lines(group: str, task: str) -> DeclarationError:
    return DeclarationError(
        f"group={group!r} and task {task!r}, which has a line of its own by concurrency=, rate= or "
        f"own_line=: a job stands in one line. Drop one of them."
    )


def task_line(task: str) -> str:
    """Return the name of a task's own line: one that no group can have."""
    return f"@{task}"


class Producer(Portal, Protocol):
    """What a task needs of its app: somebody who stores calls."""

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
        """The queue of its jobs, unless a call says another."""
        queue = self._terms.options.queue
        return "default" if queue is UNSET else queue

    def __call__(self, *args: Whole.args, **kwargs: Whole.kwargs) -> Out:
        """Run the function itself, here and now; nothing is enqueued."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    async def enqueue(self, *args: Args.args, **kwargs: Args.kwargs) -> JobHandle[R]:
        """Store a job that will run this task with these arguments.

        Raises:
            InvalidArguments, NotEncodable, PayloadTooLarge: before anything is sent.
            StoreError: the store refused or could not be reached.
        """
        return await self._producer.submit(self.bind(*args, **kwargs))

    def bind(self, *args: Args.args, **kwargs: Args.kwargs) -> Call[R]:
        """Return a call: arguments checked and encoded, nothing sent.

        Raises:
            InvalidArguments, NotEncodable, PayloadTooLarge: the arguments cannot travel.
        """
        payload = self.signature.encode(args, kwargs, self._producer.payload_limit)
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
        """Register a task.

        Raises:
            DeclarationError: another function has the name.
        """
        known = self._tasks.get(task.name)
        if known is not None and known.function is not task.function:
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
