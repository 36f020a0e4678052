"""Run the benchmarks: floor and taskmux in turns on the same server, medians, JSON on request."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import platform
import statistics
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from taskmux.config import hide_credentials, scheme_of

from benchmarks.measures import Bench, bench

SIZES = {
    "drain": 20_000,
    "single": 2_000,
    "flight": 20_000,
    "bulk": 50_000,
    "pickup": 300,
    "burst": 10_000,
    "backlog": 1_000_000,
    "memory": 20_000,
}

ONCE = {"backlog", "many-groups"}
"""Measures that take minutes: a backlog of a million is filled for them."""

Figures = dict[str, float]
Measure = Callable[[Bench], Awaitable[Figures]]


def _measures(sizes: dict[str, int], floor: ModuleType | None = None) -> dict[str, Measure]:
    async def single(it: Bench) -> Figures:
        return {"enqueue one by one, jobs/s": await it.one_by_one(sizes["single"])}

    async def flight(it: Bench) -> Figures:
        return {"enqueue 100 in flight, jobs/s": await it.in_flight(sizes["flight"])}

    async def bulk(it: Bench) -> Figures:
        figure, ours = "enqueue in bulk, jobs/s", await it.bulk(sizes["bulk"])
        if not hasattr(floor, "bulk"):
            return {figure: ours}
        bare: float = await floor.bulk(it.url, sizes["bulk"])
        alike: float = await floor.bulk_alike(it.url, sizes["bulk"])
        return {
            "floor: insert in bulk, jobs/s": bare,
            "floor: insert in bulk what taskmux stores, jobs/s": alike,
            figure: ours,
            "bulk / floor": ours / bare,
            "bulk / floor of what taskmux stores": ours / alike,
        }

    async def pickup(it: Bench) -> Figures:
        found = await it.pick_up(sizes["pickup"])
        figures = {"pick-up p50, ms": _rank(found, 0.5), "pick-up p99, ms": _rank(found, 0.99)}
        if hasattr(floor, "round_trip"):
            figures["floor: one round trip p50, ms"] = await floor.round_trip(it.url)
        return figures

    async def burst(it: Bench) -> Figures:
        found = await it.burst(sizes["burst"])
        return {"delayed burst, p99 lateness, ms": _rank(found, 0.99), "earliest, ms": found[0]}

    async def priorities(it: Bench) -> Figures:
        one = await it.drain(sizes["drain"])
        ten = await it.drain(sizes["drain"], priorities=10)
        return {"drain, 10 priorities / 1": ten / one}

    async def backlog(it: Bench) -> Figures:
        small = await it.drain_at_backlog(sizes["drain"], sizes["drain"] + 1000)
        large = await it.drain_at_backlog(sizes["drain"], sizes["backlog"])
        return {f"drain, backlog {sizes['backlog']:,} / 1,000": large / small}

    return {
        "single": single,
        "flight": flight,
        "bulk": bulk,
        "pickup": pickup,
        "burst": burst,
        "priorities": priorities,
        "backlog": backlog,
        **_group_measures(sizes),
    }


def _group_measures(sizes: dict[str, int]) -> dict[str, Measure]:
    async def groups(it: Bench) -> Figures:
        none = await it.drain(sizes["drain"])
        hundred = await it.drain_in_groups(sizes["drain"], sizes["drain"], 100)
        return {"drain, 100 groups / none": hundred / none}

    async def many_groups(it: Bench) -> Figures:
        small = await it.drain_in_groups(sizes["drain"], sizes["drain"] + 1000, 10)
        lines = max(10, sizes["backlog"] // 100)
        large = await it.drain_in_groups(sizes["drain"], sizes["backlog"], lines)
        return {f"drain, {sizes['backlog']:,} in {lines:,} groups / 1,000 in 10": large / small}

    return {"groups": groups, "many-groups": many_groups}


def _rank(found: list[float], share: float) -> float:
    return found[min(len(found) - 1, int(len(found) * share))]


def _floor(url: str) -> ModuleType | None:
    scheme = scheme_of(url).split("+")[0]
    try:
        return importlib.import_module(f"benchmarks.floor_{scheme}")
    except ModuleNotFoundError:
        return None


async def _run(
    url: str,
    subjects: tuple[str, ...],
    names: list[str],
    repeat: int,
    sizes: dict[str, int],
    tick: Callable[[str], None],
) -> Figures:
    figures: dict[str, list[float]] = {}
    floor = _floor(url) if "floor" in subjects else None
    async with bench(url) as it:
        for _ in range(repeat):
            await _drain_pair(it, floor, subjects, sizes["drain"], figures, tick)
        if "taskmux" in subjects:
            for name, measure in _measures(sizes, floor).items():
                if name not in names:
                    continue
                for _ in range(1 if name in ONCE else repeat):
                    tick(name)
                    for figure, value in (await measure(it)).items():
                        figures.setdefault(figure, []).append(value)
            used = getattr(floor or _floor(url), "used_memory", None)
            if used is not None and "memory" in names:
                tick("memory")
                waiting, completed = await it.memory(sizes["memory"], used)
                figures["memory per waiting job, bytes"] = [waiting]
                figures["memory per completed job, bytes"] = [completed]
    return {name: statistics.median(values) for name, values in figures.items()}


async def _drain_pair(
    it: Bench,
    floor: ModuleType | None,
    subjects: tuple[str, ...],
    jobs: int,
    figures: dict[str, list[float]],
    tick: Callable[[str], None],
) -> None:
    """Measure both one after the other, so that the machine's moods hit both."""
    tick("drain")
    floors: Figures = {}
    if floor is not None:
        floors["floor"] = await floor.drain(it.url, jobs)
        if hasattr(floor, "drain_with_tasks"):
            floors["floor with a task per job"] = await floor.drain_with_tasks(it.url, jobs)
    for name, bare in floors.items():
        figures.setdefault(f"{name}: claim + run + ack, jobs/s", []).append(bare)
    if "taskmux" not in subjects:
        return
    for drain, measured in (
        ("drain", it.drain),
        ("drain with a result each", it.drain_with_results),
    ):
        ours = await measured(jobs)
        figures.setdefault(f"{drain}, jobs/s", []).append(ours)
        for name, bare in floors.items():
            figures.setdefault(f"{drain} / {name}", []).append(ours / bare)


@click.command()
@click.argument("subjects", nargs=-1, type=click.Choice(["floor", "taskmux"]))
@click.option("--url", required=True, help="The store. Its bench-* queues are written to.")
@click.option("--only", help="Measures, comma-separated; all by default.")
@click.option("--repeat", default=3, show_default=True, help="Runs; medians are reported.")
@click.option("--scale", default=1.0, show_default=True, help="Multiplies the numbers of jobs.")
@click.option("--uvloop/--no-uvloop", default=True, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    subjects: tuple[str, ...],
    url: str,
    only: str | None,
    repeat: int,
    scale: float,
    *,
    uvloop: bool,
    as_json: bool,
) -> None:
    """Measure SUBJECTS (floor, taskmux; both by default) on one store in one run."""
    subjects = subjects or ("floor", "taskmux")
    sizes = {name: max(100, int(size * scale)) for name, size in SIZES.items()}
    names = only.split(",") if only else [*_measures(sizes), "memory"]
    factory, loop = None, "the stock loop"
    if uvloop:
        with contextlib.suppress(ModuleNotFoundError):
            factory, loop = importlib.import_module("uvloop").new_event_loop, "uvloop"
    console = Console(stderr=True)
    with (
        Progress(console=console, disable=as_json) as bar,
        asyncio.Runner(loop_factory=factory) as runner,
    ):
        task = bar.add_task("start", total=None)
        found = runner.run(
            _run(
                url, subjects, names, repeat, sizes, lambda name: bar.update(task, description=name)
            )
        )
    _report(
        {"url": hide_credentials(url), "python": platform.python_version(), "loop": loop},
        found,
        as_json=as_json,
    )


def _report(about: dict[str, Any], found: Figures, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(about | {"figures": found}, indent=2))
        return
    table = Table("Figure", "Median", title=f"{about['url']}, {about['loop']}")
    for name, value in found.items():
        table.add_row(name, f"{value:,.2f}" if value < 100 else f"{value:,.0f}")  # noqa: PLR2004
    Console().print(table)


if __name__ == "__main__":
    main()
