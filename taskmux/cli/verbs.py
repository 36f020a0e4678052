"""`taskmux job retry|cancel|rm|hold|unhold|promote`: jobs by id, or all that a filter means."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

import click

from taskmux.api.handle import JobHandle
from taskmux.app import Taskmux
from taskmux.cli.bulk import Target, Words, bulk_options, carry_out, narrowed
from taskmux.cli.common import (
    app_option,
    errors_to_exit_codes,
    exit_code,
    json_option,
    run_on_app,
    url_option,
)
from taskmux.cli.filters import filter_options
from taskmux.cli.jobs import job
from taskmux.cli.output import complain, print_line, say
from taskmux.model.errors import DeclarationError, JobError
from taskmux.model.job import State
from taskmux.model.units import checked_reason, milliseconds

__all__ = ["job", "one_by_one"]

Do = Callable[[JobHandle[Any]], Awaitable[State | None]]
"""Does it to one job; may return the state that it came to."""


def one_by_one(words: Words, target: Target, ids: Sequence[str], do: Do) -> None:
    """Do something to single jobs, each for itself; exit with the status of the first that failed.

    Raises:
        InvalidName: an id is none. Nothing was sent.
        StoreError: the store cannot go on.
    """

    async def each(mux: Taskmux) -> int:
        code = 0
        for handle in [mux.job(target.queue, job_id) for job_id in dict.fromkeys(ids)]:
            told: dict[str, object] = {"queue": handle.queue, "id": handle.id, "verb": words.verb}
            try:
                state = await do(handle)
            except JobError as error:
                code = code or exit_code(error)
                told |= {"done": False, "error": type(error).__name__, "message": str(error)}
                complain(f"{type(error).__name__}: {error}")
            else:
                asked = words.verb == "cancel" and state is State.ACTIVE
                told |= {"done": not asked, "requested": asked}
                if not target.as_json:
                    say(f"{'Asked to stop' if asked else words.done} {handle.ref}")
            if target.as_json:
                print_line(told)
        return code

    if code := run_on_app(target.url, target.app, each):
        raise SystemExit(code)


def _apart(ids: Sequence[str], where: dict[str, Any], **bulk: Any) -> None:
    """Refuse ids together with what is about many jobs.

    Raises:
        DeclarationError: both were given.
    """
    if ids and (where or any(bulk.values())):
        raise DeclarationError(
            "Give ids or filters, not both. --all, --dry-run and --limit go with filters; in a "
            "filter, a job is named by --id."
        )


def _verb(
    name: Literal["retry", "rm", "hold", "unhold", "promote"], method: str, done: str, about: str
) -> None:
    words = Words("remove" if name == "rm" else name, done)

    @job.command(name, help=about)
    @click.argument("queue", metavar="QUEUE")
    @click.argument("job_ids", metavar="[ID]...", nargs=-1)
    @bulk_options
    @url_option
    @app_option
    @json_option
    @errors_to_exit_codes
    @filter_options()
    def run(
        queue: str,
        job_ids: tuple[str, ...],
        where: dict[str, Any],
        *,
        everything: bool,
        dry_run: bool,
        limit: int | None,
        **target: Any,
    ) -> None:
        _apart(job_ids, where, all=everything, dry_run=dry_run, limit=limit)
        at = Target(queue=queue, **target)
        if job_ids:
            one_by_one(words, at, job_ids, lambda handle: getattr(handle, method)())
            return
        narrowed(words.verb, where, everything=everything)
        bulk = {"all": everything, "dry_run": dry_run, "limit": limit, **where}
        carry_out(
            words,
            at,
            lambda mux, course: getattr(mux.queue(queue), method)(on_progress=course, **bulk),
            dry_run=dry_run,
            limit=limit,
        )


_verb("retry", "retry", "Retried", "Let finished jobs of QUEUE run again: by ID, or by a filter.")
_verb("rm", "remove", "Removed", "Remove jobs of QUEUE that do not run: by ID, or by a filter.")
_verb("hold", "hold", "Held", "Keep waiting and delayed jobs of QUEUE back: by ID, or by a filter.")
_verb("unhold", "unhold", "Let go", "Let jobs of QUEUE that were held go on.")
_verb("promote", "promote", "Promoted", "Let delayed jobs of QUEUE wait now, by ID or by a filter.")


@job.command("cancel")
@click.argument("queue", metavar="QUEUE")
@click.argument("job_ids", metavar="[ID]...", nargs=-1)
@click.option("--reason", help="Kept with the jobs, and told to whoever waits for them.")
@click.option("--wait", metavar="TIME", help="With ids: wait so long for running jobs to end.")
@bulk_options
@url_option
@app_option
@json_option
@errors_to_exit_codes
@filter_options()
def job_cancel(
    queue: str,
    job_ids: tuple[str, ...],
    where: dict[str, Any],
    *,
    reason: str | None,
    wait: str | None,
    everything: bool,
    dry_run: bool,
    limit: int | None,
    **target: Any,
) -> None:
    """Cancel unfinished jobs of QUEUE: by ID, or by a filter. Those that run are asked to stop."""
    _apart(job_ids, where, all=everything, dry_run=dry_run, limit=limit)
    checked_reason(reason)
    if wait is not None:
        milliseconds(wait, "--wait")
    if wait is not None and not job_ids:
        raise DeclarationError("--wait goes with ids: jobs that a filter means are not waited for.")
    at, words = Target(queue=queue, **target), Words("cancel", "Cancelled")
    if job_ids:
        one_by_one(words, at, job_ids, lambda one: one.cancel(reason=reason, wait=wait))
        return
    narrowed("cancel", where, everything=everything)
    bulk = {"all": everything, "dry_run": dry_run, "limit": limit, "reason": reason, **where}
    carry_out(
        words,
        at,
        lambda mux, course: mux.queue(queue).cancel(on_progress=course, **bulk),
        dry_run=dry_run,
        limit=limit,
    )
