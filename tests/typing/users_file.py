"""A user's file. Type checkers must reject exactly the lines that are marked `# E:`."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import assert_type

from taskmux import Call, Context, Explanation, Exponential, JobHandle, Task, Taskmux

mux = Taskmux("memory://")


@dataclass
class Order:
    id: int


# -- the four forms of a handler ----------------------------------------------------------------


@mux.task(queue="email", max_attempts=5, backoff=Exponential("1s", cap="5m"), timeout="30s")
async def with_context(ctx: Context, user: int, template: str = "welcome") -> str:
    assert_type(await ctx.step("render", render, template), bytes)
    assert_type(await ctx.step("count", len, "x"), int)
    await ctx.step("render", render, 5)  # E: a wrong argument of a step
    await ctx.progress(50)
    return template * user


@mux.task()
async def plain(order: Order, *, urgent: bool = False) -> int:
    return order.id if urgent else 0


@mux.task()
def sync_with_context(ctx: Context, user: int) -> list[str]:
    assert_type(ctx.blocking.step("count", len, "x"), int)
    return [ctx.id] * user


@mux.task(name="sync")
def sync(a: int, b: float = 1.0) -> float:
    return a * b


async def render(template: str) -> bytes:
    return template.encode()


# -- enqueueing ---------------------------------------------------------------------------------


async def with_a_context() -> None:
    job = await with_context.enqueue(42)
    assert_type(job, JobHandle[str])
    assert_type(await job.result(), str)
    await with_context.enqueue(42, "goodbye")
    await with_context.enqueue(user=42, template="goodbye")
    await with_context.enqueue("42")  # E: text for a number
    await with_context.enqueue()  # E: an argument is missing
    await with_context.enqueue(Context.detached(), 42)  # E: the context is not passed
    await with_context.enqueue(42, "x", 1)  # E: too many
    await with_context.enqueue(42, templat="x")  # E: no such name


async def without_a_context() -> None:
    assert_type(await (await plain.enqueue(Order(1), urgent=True)).result(timeout="5s"), int)
    await plain.enqueue({"id": 1})  # E: a dict is no Order
    await plain.enqueue(Order(1), True)  # E: urgent is named only
    await plain.enqueue(Order(1), urgent="yes")  # E: text for a flag


async def of_sync_handlers() -> None:
    assert_type(await (await sync_with_context.enqueue(1)).result(), list[str])
    assert_type(await (await sync.enqueue(1, b=2.0)).result(), float)
    await sync_with_context.enqueue("1")  # E: text for a number
    await sync_with_context.enqueue(Context.detached(), 1)  # E: the context is not passed
    await sync.enqueue(1, "2")  # E: text for a number
    await sync.enqueue(b=2.0)  # E: an argument is missing


# -- options, calls, other verbs ----------------------------------------------------------------


async def with_options() -> None:
    later = with_context.options(delay="10m", priority="high", id="welcome:42", tags=["a"])
    assert_type(await (await later.enqueue(42)).result(), str)
    await later.enqueue("42")  # E: text for a number, through options too
    await plain.options(lifo=True).enqueue(7)  # E: a number is no Order
    plain.options(colour="red")  # E: no such option
    plain.options(max_attempts="5")  # E: text for a number
    plain.options(retention={"dead": "7d", "dead_count": 5}, enqueue_timeout="5s")
    plain.options(retention={"deed": "7d"})  # E: no such state


async def bound() -> None:
    call = with_context.bind(42)
    assert_type(call, Call[str])
    assert_type(
        await mux.enqueue_many([with_context.bind(n) for n in range(3)]), list[JobHandle[str]]
    )
    with_context.bind("42")  # E: text for a number
    with_context.options(delay=5).bind(user="42")  # E: text for a number
    plain.bind()  # E: an argument is missing
    await mux.enqueue_many([plain])  # E: a task is no call
    await mux.enqueue_many(with_context.bind(n) for n in range(3))
    jobs = await mux.enqueue_many([with_context.bind(1), plain.bind(Order(1))])
    assert_type([job.id for job in jobs], list[str])
    anything: list[Call[object]] = [with_context.bind(1), plain.bind(Order(1))]
    more: list[JobHandle[object]] = await mux.enqueue_many(anything)
    jobs_of_text: list[Call[str]] = [plain.bind(Order(1))]  # E: its result is a number
    del more, jobs_of_text


def from_a_script() -> None:
    job = sync_with_context.blocking.enqueue(1)
    assert_type(job.blocking.result(timeout=5), list[str])
    sync_with_context.blocking.enqueue("1")  # E: text for a number
    with_context.options(delay=1).blocking.enqueue("1")  # E: text for a number
    assert_type(mux.queue("q").blocking.counts().waiting, int)
    assert_type(job.blocking.explain(), Explanation)
    mux.queue("q").blocking.page("dead", limit="5")  # E: text for a number


async def directly() -> None:
    assert_type(await with_context(Context.detached(), 1), str)
    assert_type(sync(1), float)
    assert_type(await plain(Order(1)), int)
    await with_context(1)  # E: called itself, it takes its context
    sync("1")  # E: text for a number


async def by_name() -> None:
    await mux.enqueue("billing.charge", {"order": 7}, queue="billing")
    await mux.enqueue("billing.charge", [7])  # E: arguments have names
    await mux.enqueue("billing.charge", {}, quiue="billing")  # E: no such option


# -- declaring ----------------------------------------------------------------------------------


@mux.task  # E: the parentheses are missing
async def bare() -> None: ...


@mux.task(max_attempts="5")  # E: text for a number
async def wrong_option() -> None: ...


@mux.task(nosuch=1)  # E: no such option
async def unknown_option() -> None: ...


Taskmux("memory://", defaults={"max_attempts": 3, "tags": ["a"]})
Taskmux("memory://", defaults={"max_attempt": 3})  # E: no such option


def takes_any_task(task: Task[..., [int], Awaitable[str], str]) -> str:
    return task.name


async def uses_results() -> None:
    number: int = await (await plain.enqueue(Order(1))).result()
    text: str = await (await plain.enqueue(Order(1))).result()  # E: its result is a number
    del number, text
