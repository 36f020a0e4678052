"""The app: tasks, the stores behind their queues, and the verbs users start from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Self, TypeVar, Unpack

from taskmux.api.blocking import BackgroundLoop
from taskmux.api.blocking_app import BlockingTaskmux
from taskmux.api.call import Call, Terms
from taskmux.api.codec import encode_mapping
from taskmux.api.events import EventStream
from taskmux.api.handle import JobHandle
from taskmux.api.naming import task_name
from taskmux.api.options import JobOptions, QueueOptions, parse_call, parse_shared
from taskmux.api.producing import Producing
from taskmux.api.queue import Queue, declared_limits
from taskmux.api.serving import mismatches, queues_of
from taskmux.api.stores import Stores
from taskmux.api.task import Registry, Task, TaskDecorator, decorator
from taskmux.config import Limits
from taskmux.model.errors import DeclarationError
from taskmux.model.job import Ref
from taskmux.model.log import Log
from taskmux.model.queue import Rate
from taskmux.model.units import Duration, check_name, check_queue, milliseconds
from taskmux.model.workers import Command, WorkerInfo
from taskmux.plugins.instrument import Hooks
from taskmux.worker import Worker, WorkerOptions, check_concurrency

__all__ = ["Taskmux"]

R = TypeVar("R")

logger = Log("taskmux.worker")

Lifespan = Callable[["Taskmux"], AbstractAsyncContextManager[Any]]


class Taskmux:
    """A task queue: tasks, and the stores that their jobs live in.

    Stores are opened lazily at first use, once per event loop; `async with mux:` opens the
    default one at once and closes all of this loop's at the end.

    Args:
        url: the default store; None takes `TASKMUX_URL`, a configuration file, or
            `sqlite:///taskmux.db`.
        client: the application's own async client instead (PyMongo, Motor, redis-py), used as it
            is, or a driver. Everything then belongs to the client's event loop.
        routes: queue-name patterns (`"reports.*"`) and the URLs of the stores they live in; the
            first that matches wins.
        defaults: job options for all tasks that do not say otherwise.
        lifespan: makes an async context manager around each worker; what it yields is
            `ctx.state` in handlers.
        limits: sizes refused before anything is sent.
        plugins: objects or modules that implement hooks of `taskmux.plugins.hookspecs`.

    Raises:
        InvalidURL, UnknownScheme, MissingExtra: before any connection is made.
        DeclarationError: a default option or a plug-in is wrong.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        client: object = None,
        routes: Mapping[str, str] | None = None,
        defaults: JobOptions | None = None,
        lifespan: Lifespan | None = None,
        limits: Limits | None = None,
        plugins: Sequence[object] = (),
    ) -> None:
        self._stores = Stores(url, client, routes, plugins)
        self._defaults = parse_shared(defaults or {})
        self._lifespan = lifespan
        self._limits = limits or Limits()
        self._registry = Registry()
        self._hooks = Hooks(self._stores.plugins)
        self._producing = Producing(self._stores.connect, self._stores.opened, self, self._hooks)
        self._background = BackgroundLoop()

    def __repr__(self) -> str:
        return f"<Taskmux {self.url}>"

    @property
    def url(self) -> str:
        """The default store's URL, credentials hidden."""
        return self._stores.url

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs of all its stores, the default one first, credentials hidden."""
        return self._stores.urls

    @property
    def tasks(self) -> Registry:
        """The registered tasks."""
        return self._registry

    @property
    def payload_limit(self) -> int:
        """The most bytes a payload may take."""
        return self._limits.payload

    def use(self, url: str) -> None:
        """Take another default store, before anything was opened: for commands and tests.

        Raises:
            InvalidURL, UnknownScheme, MissingExtra: the URL cannot be served.
            ConfigError: a store is open already.
        """
        self._stores.use(url)

    # -- declaring ----------------------------------------------------------------------------

    def task(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        concurrency: int | None = None,
        rate: str | Rate | None = None,
        own_line: bool = False,
        **options: Unpack[JobOptions],
    ) -> TaskDecorator:
        """Register a function as a task: `@mux.task(queue="email", max_attempts=5)`.

        Args:
            function: nothing; it is there to say what is wrong with `@mux.task`.
            name: the task's name in stored jobs; `module.function` by default. Workers find the
                function by it, so keep it when the function moves.
            concurrency: how many of its jobs run at once, on all workers together.
            rate: how many of its jobs start per time, such as `"100/m"`.
            own_line: let its jobs stand in a line of their own, so that they can be paused or
                limited apart. A limit implies it; a `group` excludes it. Stored by workers when
                they start; what `mux.queue(...).limit(task=...)` said later stays until the
                declaration changes.
            options: see `JobOptions`; `id`, `run_at`, `dedup` and `session` belong to single calls.

        Raises:
            DeclarationError: the signature or an option cannot work, or the name is taken.
            InvalidName: the queue's or task's name cannot be stored everywhere.
        """
        if callable(function):
            raise DeclarationError("Write @mux.task() with parentheses: options go between them.")
        parsed = parse_shared(options, ("name", "concurrency", "rate", "own_line"))
        limits = declared_limits(concurrency, rate, own_line=own_line)

        def register(function: Callable[..., Any]) -> Task[Any, Any, Any, Any]:
            task: Task[Any, Any, Any, Any] = Task(
                check_name(name or task_name(function), "task name"),
                function,
                parsed,
                self,
                base=self._defaults,
                limits=limits,
            )
            self._registry.add(task)
            return task

        return decorator(register)

    # -- producing ----------------------------------------------------------------------------

    async def submit(self, call: Call[R]) -> JobHandle[R]:
        """Store a call as a job; concurrent ones travel together.

        Cancelling the await does not take the job back.

        Raises:
            StoreUnavailable: the store could not be reached within `enqueue_timeout`; the job may
                be stored all the same.
            Moved: the queue lives in another store now.
            GroupFull: its group has as many waiting jobs as the queue allows.
            UnsupportedFeature: `session` is given and the store has no transactions, or a group
                and it has no lines.
            StoreError: the store refused or could not be reached; a job may be stored all the
                same. With an `id` it can be enqueued again.
        """
        return await self._producing.submit(call)

    async def enqueue(
        self, task: str, arguments: Mapping[str, Any] | None = None, **options: Unpack[JobOptions]
    ) -> JobHandle[Any]:
        """Store a job by its task's name, which need not be registered here.

        If it is, its declared options hold and its signature is checked, as if the task itself
        had been enqueued.

        Args:
            task: the name.
            arguments: values by parameter name; of an unknown task they are checked by the worker
                that runs the job.
            options: see `JobOptions`.

        Raises:
            InvalidName, DeclarationError, InvalidArguments, NotEncodable, PayloadTooLarge: before
                anything is sent.
            StoreError: the store refused or could not be reached; a job may be stored all the
                same. With an `id` it can be enqueued again.
        """
        known = self._registry.get(check_name(task, "task name"))
        if known is not None:
            return await self.submit(known.options(**options).bind_named(arguments or {}))
        payload = self.encoded(task, arguments or {})
        terms = Terms.settled(parse_call(options), self._defaults)
        return await self.submit(Call(task, payload, terms))

    async def enqueue_many(self, calls: Iterable[Call[R]]) -> list[JobHandle[R]]:
        """Store many calls, in order, a few hundred per round trip.

        They may be calls of different tasks. `enqueue_timeout` is for each round trip.

        Not all-or-nothing: if the store fails in between, the first ones are stored; if a group
        is full, all but the jobs that found it so.

        Raises:
            InvalidArguments: one of them is no call.
            Moved: a queue lives in another store now.
            GroupFull: a job's group has as many waiting jobs as its queue allows.
            StoreError: the store refused or could not be reached; a job may be stored all the
                same. With an `id` it can be enqueued again.
        """
        return await self._producing.submit_many(calls)

    def encoded(self, task: str, arguments: Mapping[str, Any]) -> bytes:
        """Return the payload that a call by name has; see `enqueue` for what is checked.

        Raises:
            InvalidArguments, NotEncodable, PayloadTooLarge: the arguments cannot travel.
        """
        known = self._registry.get(task)
        if known is not None:
            return known.bind_named(arguments).payload
        return encode_mapping(task, arguments, self._limits.payload)

    def returns_of(self, task: str) -> Any:
        """Return the type of a task's results; Any if the app does not know the task."""
        known = self._registry.get(task)
        return Any if known is None else known.signature.returns

    # -- reading ------------------------------------------------------------------------------

    def queue(self, name: str, *, defaults: QueueOptions | None = None) -> Queue:
        """Return a queue; nothing is asked yet.

        Args:
            name: the queue's name.
            defaults: options for its jobs that neither the call nor the task says. They are
                stored when this app first enqueues there, for every other producer, if they
                differ from those that were declared before.

        Raises:
            InvalidName: the name cannot be stored everywhere.
            DeclarationError: an option is wrong, or not one of a queue.
        """
        queue = Queue(name, self._stores.connect, self)
        if defaults is not None:
            self._producing.declare(name, defaults)
        return queue

    def job(self, queue: str, job_id: str) -> JobHandle[Any]:
        """Return a handle on a job; nothing is asked yet.

        Raises:
            InvalidName: the queue's name or the id cannot be stored anywhere.
        """
        ref = Ref(check_queue(queue), check_name(job_id, "job id"))
        return JobHandle(ref, self._stores.connect, self)

    def events(self, queue: str | None = None, *, after: str | None = None) -> EventStream:
        """Return what happens in a queue, or in all, from now on; see `EventStream`."""
        return EventStream(self._stores.connect, self._stores.queues, queue, after)

    async def queues(self) -> list[str]:
        """Return the names of all queues in this app's stores, sorted."""
        return await self._stores.queues()

    async def workers(self) -> list[WorkerInfo]:
        """Return the live workers of this app's stores, by id; one of several with all its queues.

        Raises:
            UnsupportedFeature: a store has no registry of workers.
        """
        return await self._stores.workers()

    async def tell(self, worker: str, command: Command) -> bool:
        """Tell a live worker something; it does so within a second or two.

        Args:
            worker: its id, as `workers` lists it.
            command: `Command("pause")`, `Command("resume")`, `Command("stop")`, or
                `Command("concurrency", 20)`.

        Returns:
            Whether there is such a worker.

        Raises:
            DeclarationError: the concurrency is out of range.
            UnsupportedFeature: a store has no registry of workers.
        """
        if command.verb == "concurrency":
            check_concurrency(command.value)
        return await self._stores.tell(worker, command)

    def worker(
        self,
        queues: Sequence[str] | Mapping[str, int] | None = None,
        *,
        concurrency: int = 10,
        lease: Duration = "30s",
        drain: Duration = "20s",
    ) -> Worker:
        """Return a worker for these queues: `async with mux.worker(["email"]): ...`.

        A queue that no task uses, and a task whose queue is not served, are warned about.

        Args:
            queues: names, in order of preference: a later one is served when the earlier are
                empty. Or with weights: `{"email": 3, "reports": 1}` comes to email first three
                times of four. None: every queue of the tasks registered by now, each as often;
                `default` if there are no tasks.
            concurrency: how many handlers run at once.
            lease: how long a job is kept for a worker that does not renew it.
            drain: how long a stopping worker lets handlers finish before it gives jobs back.

        Raises:
            DeclarationError: a number or duration is out of range.
            InvalidName: a queue's name cannot be stored everywhere.
        """
        used = queues_of(self._registry)
        options = WorkerOptions.checked(
            dict.fromkeys(used or ("default",), 1) if queues is None else queues,
            concurrency=concurrency,
            lease_ms=milliseconds(lease, "lease"),
            drain_ms=milliseconds(drain, "drain"),
        )
        for sentence in mismatches(self._registry, options.queues):
            logger.warning("%s", sentence)
        stores = list(self._stores.by_store(options.queues))
        lifespan = self._lifespan
        return Worker(
            self._registry,
            stores,
            options,
            hooks=self._hooks,
            limits=self._limits,
            lifespan=None if lifespan is None else lambda: lifespan(self),
        )

    async def __aenter__(self) -> Self:
        """Open the default store, so that a wrong URL shows at once."""
        await self._stores.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close this event loop's stores."""
        await self.close()

    async def close(self) -> None:
        """Let what is under way finish, then close this event loop's stores."""
        await self._stores.close()

    @property
    def blocking(self) -> BlockingTaskmux:
        """The same for code without an event loop: Flask, Django, scripts."""
        return BlockingTaskmux(self)

    def run_blocking(self, make: Callable[[], Awaitable[R]]) -> R:
        """Run a coroutine on the app's background loop and wait for it."""
        return self._background.run(make)

    def close_blocking(self) -> None:
        """Close what the blocking verbs opened, and their thread."""
        self._background.run(self.close)
        self._background.stop()
