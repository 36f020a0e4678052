"""What may be said of a deduplication key, and what is refused before anything is sent."""

from __future__ import annotations

import pickle

import pytest
from taskmux import Dedup, DuplicateJob, Taskmux
from taskmux.api.call import Terms
from taskmux.api.options import parse_options
from taskmux.model import job as model
from taskmux.model.dedup import succeeding
from taskmux.model.errors import DeclarationError, InvalidName

SAID = {
    "plain": (Dedup("k"), model.Dedup("k")),
    "throttle": (Dedup("k", ttl="10m"), model.Dedup("k", 600_000)),
    "debounce": (
        Dedup("k", ttl=1.5, replace=True, extend=True),
        model.Dedup("k", 1_500, replace=True, extend=True),
    ),
    "latest": (Dedup("k", latest=True), model.Dedup("k", latest=True)),
    "latest, later": (
        Dedup("k", latest=True, extend=True),
        model.Dedup("k", extend=True, latest=True),
    ),
}

WRONG = {
    "ttl 0": ({"ttl": 0}, "Leave ttl out"),
    "no time": ({"ttl": "soon"}, "ttl"),
    "negative": ({"ttl": -1}, "ttl"),
    "latest for a time": ({"ttl": "1m", "latest": True}, "Leave ttl out"),
    "latest and replace": ({"replace": True, "latest": True}, "Leave replace out"),
    "extend alone": ({"ttl": "1m", "extend": True}, "replace=True"),
    "a number for a word": ({"replace": 1}, "neither True nor False"),
}


@pytest.mark.parametrize("mode", SAID)
def test_each_mode_in_its_stored_form(mode: str) -> None:
    said, stored = SAID[mode]
    assert parse_options({"dedup": said}).dedup == stored
    assert stored.is_plain == (mode == "plain")


@pytest.mark.parametrize("mode", WRONG)
def test_a_wrong_combination_says_what_to_do(mode: str) -> None:
    said, advice = WRONG[mode]
    with pytest.raises(DeclarationError, match=advice):
        Dedup("k", **said)


@pytest.mark.parametrize("key", ["", "a b", "k" * 256, "\0"])
def test_a_key_that_not_every_store_can_hold(key: str) -> None:
    with pytest.raises(InvalidName, match="dedup key"):
        Dedup(key)


@pytest.mark.parametrize(
    ("run_at", "state"),
    [
        (None, model.State.WAITING),
        (999, model.State.WAITING),
        (1_000, model.State.WAITING),
        (1_001, model.State.DELAYED),
    ],
)
def test_a_successor_that_is_due_waits(run_at: int | None, state: model.State) -> None:
    job = model.JobRecord(queue="q", id="a", task="t", run_at=run_at)
    assert succeeding(job, 1_000) is state


class TestSuperseding:
    @pytest.mark.parametrize("dedup", ["k", Dedup("k", latest=True)])
    def test_the_newest_comes_after_the_running_one(self, dedup: str | Dedup) -> None:
        options = parse_options({"dedup": dedup, "supersede": True})
        terms = Terms.settled(options, parse_options({}))
        assert terms.options.dedup == model.Dedup("k", latest=True)

    @pytest.mark.parametrize(
        ("options", "advice"),
        [
            ({}, "add dedup='k'"),
            ({"dedup": Dedup("k", ttl="1m")}, "Leave ttl and replace out"),
            ({"dedup": Dedup("k", replace=True)}, "Leave ttl and replace out"),
        ],
    )
    async def test_it_needs_a_key_that_is_owned_until_the_end(self, options, advice) -> None:
        task = Taskmux("memory://").task()(lambda: None)
        with pytest.raises(DeclarationError, match=advice):
            task.options(supersede=True, **options)

    @pytest.mark.parametrize(
        "options",
        [
            {"dedup": Dedup("k", replace=True)},
            {"dedup": Dedup("k", latest=True)},
            {"dedup": "k", "supersede": True},
        ],
    )
    def test_no_transaction_changes_another_job(self, options) -> None:
        task = Taskmux("memory://").task()(lambda: None)
        with pytest.raises(DeclarationError, match="after the commit"):
            task.options(session=object(), **options)


def test_the_error_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(DuplicateJob("taken", "job-1")))
    assert (str(error), error.job_id) == ("taken", "job-1")
