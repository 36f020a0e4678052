"""The kit can fail: each broken driver fails the case named for what it breaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from taskmux.conformance import Bench, DriverSuite, lost
from taskmux.conformance.cases import events, holds, waiting
from taskmux.driver import QueueSettings, State, StoreError
from taskmux.memory import MemoryDriver, MemoryStore
from tests.conformance import (
    broken,
    broken_events,
    broken_keys,
    broken_operations,
    broken_reading,
    broken_records,
)


class Suite(DriverSuite):
    """What `TestMemory` is, without being collected."""

    def __init__(self) -> None:
        self.clock = 1_700_000_000_000

    async def advance(self, ms: float) -> None:
        self.clock += max(1, round(ms))


async def run(broken: type[MemoryDriver], case: str, **params: Any) -> None:
    suite = Suite()
    driver = broken(store=MemoryStore(clock=lambda: suite.clock))
    async with Bench(driver, suite) as bench:
        await getattr(suite, case)(bench, **params)


@dataclass(frozen=True)
class Bite:
    """A broken driver, and the case that must notice."""

    kind: type[MemoryDriver]
    case: str
    params: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.kind.__name__


BITES: Sequence[Bite] = (
    Bite(broken.NoFenceCheck, "test_a1_a_zombie_is_refused", {"move": "complete"}),
    Bite(broken.NoFenceCheck, "test_n1_a_zombies_note_is_refused"),
    Bite(broken.ForgetsPush, "test_p4_a_repeat_creates_nothing"),
    Bite(broken.ForgetsPush, "test_p4_a_repeat_is_known_after_prune"),
    Bite(broken.ForgetsClaim, "test_c5_a_repeat_returns_the_same_jobs"),
    Bite(broken.RemembersOneClaimInAll, "test_c5_a_repeat_is_known_in_each_queue"),
    Bite(broken.RepeatsWithLostLeases, "test_c5_a_repeat_returns_only_what_is_still_held"),
    Bite(
        broken.ForgetsApply,
        "test_a4_a_repeat_changes_nothing",
        {"move": "complete", "start": "active"},
    ),
    Bite(broken.ForgetsApply, "test_a4_a_repeated_redrive_revives_nothing"),
    Bite(broken.ForgetsApply, "test_a4_lost_replies_change_no_count"),
    Bite(broken.ForgetsReclaim, "test_r3_a_repeat_returns_the_same_jobs"),
    Bite(broken.WritesBeforeChecking, "test_a1_a_guard_is_checked_before_anything_is_written"),
    Bite(broken.PromotesEarly, "test_c2_a_delayed_job_waits_for_its_time"),
    Bite(broken.PromotesEarly, "test_c2_no_job_is_claimed_before_its_time"),
    Bite(broken.PromotesWithoutBound, "test_c2_a_claim_promotes_a_bounded_number"),
    Bite(broken.IgnoresPause, "test_c6_a_paused_queue_gives_nothing"),
    Bite(broken.KeepsFenceAtClaim, "test_c3_the_fence_rises_at_every_claim"),
    Bite(broken.KeepsFenceAtReclaim, "test_r1_the_former_holder_is_refused"),
    Bite(broken.ReclaimsEverything, "test_r1_only_lapsed_leases_are_reclaimed"),
    Bite(broken.ReclaimsEarly, "test_r1_no_lease_is_reclaimed_early"),
    Bite(
        broken.KeepsKeyWhenFinished, "test_a6_a_terminal_job_frees_its_key", {"state": "completed"}
    ),
    Bite(broken.TakesKeyOfAnother, "test_a6_a_key_owned_by_another_is_a_conflict"),
    Bite(
        broken.IgnoresCancelRequest,
        "test_a7_a_job_asked_to_cancel_goes_nowhere_else",
        {"move": "again later"},
    ),
    Bite(broken.LosesLease, "test_c3_a_claimed_job_is_leased"),
    Bite(broken.LosesLease, "test_c3_no_more_than_asked"),
    Bite(
        broken.KeepsWorkerAfterRun,
        "test_a3_every_move_from_every_state",
        {"move": "complete", "start": "active"},
    ),
    Bite(broken.KeepsWorkerAfterRun, "test_p4_a_repeat_is_known_after_the_job_ran"),
    Bite(broken.CountsDrift, "test_g2_counts_are_exact_after_every_operation"),
    Bite(broken.CountsDrift, "test_o1_opening_an_open_driver_changes_nothing"),
    Bite(broken.LosesPlace, "test_a5_keep_is_the_own_place"),
    Bite(broken.StackNotQueue, "test_c1_first_in_first_out_within_a_priority"),
    Bite(broken.ForgetsPolicy, "test_g1_a_policy_comes_back_equal", {"kind": "steps"}),
    Bite(broken.RepeatsLogLines, "test_n2_a_repeat_changes_nothing"),
    Bite(broken.RevivesLease, "test_l1_a_lease_is_lost_with_its_fence"),
    Bite(broken.PrunesEarly, "test_t1_a_record_stays_until_then", {"state": "completed"}),
    Bite(broken.SetsBlindly, "test_s3_another_rev_changes_nothing", {"rev": 1}),
    Bite(broken.SetsBlindly, "test_s3_one_of_many_changes_the_settings"),
    Bite(broken.ClaimsInTwoSteps, "test_c4_each_job_is_handed_out_once"),
    Bite(broken.PushesInTwoSteps, "test_p2_one_of_many_creates_an_id"),
    Bite(broken.CrossesReplies, "test_a_storm_of_cancellations_crosses_no_replies"),
    Bite(broken.NoFenceCheck, "test_a_random_history_agrees_with_the_model", {"seed": 1}),
    Bite(broken.NeverRests, "test_w2_it_ends_by_itself"),
    Bite(broken.IgnoresConcurrency, "test_c9_no_more_are_active_than_allowed"),
    Bite(broken.IgnoresConcurrency, "test_c9_many_claim_at_once"),
    Bite(broken.IgnoresLimitsOfGroups, "test_c9_of_each_group"),
    Bite(broken.IgnoresLimitsOfGroups, "test_c10_of_each_group"),
    Bite(broken.IgnoresLimitsOfGroups, "test_c11_a_paused_line_lets_the_others_go"),
    Bite(broken.IgnoresRate, "test_c10_a_rate_lets_its_burst_and_one_go"),
    Bite(broken.IgnoresRate, "test_c10_no_window_sees_more_than_the_rate_and_its_burst"),
    Bite(broken.IgnoresSize, "test_p8_a_full_group_takes_no_more"),
    Bite(broken.HasOneLine, "test_c8_lines_take_turns"),
    Bite(broken.HasOneLine, "test_g4_what_a_job_stands_behind"),
    Bite(broken.FavoursALine, "test_c8_turns_go_on_in_the_next_claim"),
    Bite(broken.LosesParkedLines, "test_c11_a_line_is_paused_while_it_waits"),
    Bite(
        broken.PrefetchesAnyway,
        "test_c12_a_queue_with_limits_gives_none_to_prefetch",
        {"settings": QueueSettings(concurrency=100), "limited": True},
    ),
    Bite(broken.HoldsNothing, "test_a11_a_hold_keeps_the_queue_back"),
    Bite(broken.HoldsForZombies, "test_a11_a_zombie_holds_nothing"),
    Bite(broken.ShortensHolds, "test_a11_a_shorter_hold_ends_no_longer_one"),
    Bite(broken.TellsNobody, "test_b3_a_worker_is_told_once_and_in_order"),
    Bite(broken.RemembersTheDead, "test_b1_a_silent_worker_is_forgotten"),
    Bite(broken_operations.RemembersTooLate, "test_p4_copies_at_once_create_once"),
    Bite(broken_operations.RemembersTooLate, "test_c5_copies_at_once_claim_once"),
    Bite(broken_operations.RemembersTooLate, "test_a4_copies_at_once_apply_once"),
    Bite(broken_operations.RemembersTooLate, "test_r3_copies_at_once_reclaim_once"),
    Bite(broken_operations.DoesWhatIsLate, "test_p4_a_late_older_push_creates_nothing"),
    Bite(broken_operations.DoesWhatIsLate, "test_c5_a_late_older_claim_takes_nothing"),
    Bite(broken_operations.DoesWhatIsLate, "test_a4_a_late_older_apply_changes_nothing"),
    Bite(broken_operations.DoesWhatIsLate, "test_r3_a_late_older_reclaim_takes_nothing"),
    Bite(broken_operations.ClaimsAnewEachTime, "test_c5_a_repeat_of_an_empty_claim_is_one_claim"),
    Bite(broken_operations.RemembersFive, "test_a4_a_repeat_is_known_after_others_moved_the_job"),
    Bite(
        broken_operations.StartsFencesAtTheTime,
        "test_p1_a_fence_starts_above_those_of_a_removed_job",
        {"way": "remove"},
    ),
    Bite(
        broken_operations.ForgetsFencesOfThePruned,
        "test_p1_a_fence_starts_above_those_of_a_removed_job",
        {"way": "prune"},
    ),
    Bite(broken_operations.FailsUnlessOpen, "test_o6_a_verb_of_a_driver_that_is_not_open_says_so"),
    Bite(broken_records.PromotesOneEarly, "test_c2_no_claim_is_early_by_any_margin"),
    Bite(broken_records.PromotesThirtyEarly, "test_c2_no_claim_is_early_by_any_margin"),
    Bite(broken_records.PromotesByName, "test_c2_due_jobs_come_in_due_order"),
    Bite(broken_records.PromotesToOnePlace, "test_c2_due_jobs_come_in_due_order"),
    Bite(broken_records.GivesNothingOnceMoved, "test_c6_a_moved_queue_gives_what_is_left_in_it"),
    Bite(broken_records.GivesNothingOnceMoved, "test_c6_a_queue_that_moves_loses_no_claim"),
    Bite(broken_records.IgnoresCause, "test_a1_a_guard_may_name_the_cause"),
    Bite(
        broken_records.AsksEveryJobForACause,
        "test_a1_a_cause_is_asked_of_blocked_jobs_only",
        {"start": "delayed"},
    ),
    Bite(
        broken_records.KeepsFinishedAt,
        "test_a3_every_way_out_of_a_terminal_state",
        {"start": "dead", "to": State.DELAYED},
    ),
    Bite(broken_records.KeepsExpiry, "test_t1_a_redriven_job_has_no_retention", {"state": "dead"}),
    Bite(
        broken_records.KeepsExpiry,
        "test_t1_retention_counts_from_the_last_end",
        {"state": "completed"},
    ),
    Bite(broken_records.KeepsFirstRetention, "test_t1_the_last_retention_counts"),
    Bite(broken_records.CountsTheRedriven, "test_t2_a_redriven_job_is_not_counted"),
    Bite(
        broken_records.ForgetsPlaces,
        "test_a5_keep_is_the_own_place_after_another_state",
        {"state": "blocked"},
    ),
    Bite(
        broken_records.ForgetsPlaces,
        "test_a5_keep_is_the_own_place_after_another_state",
        {"state": "delayed"},
    ),
    Bite(
        broken_records.HasNoPlaceToKeep,
        "test_a5_keep_is_the_back_for_a_job_that_never_waited",
        {"state": State.DELAYED},
    ),
    Bite(
        broken_records.HoldsEveryQueue,
        "test_a11_a_hold_leaves_other_queues_alone",
        {"line": False},
    ),
    Bite(
        broken_records.HoldsEveryQueue, "test_a11_a_hold_leaves_other_queues_alone", {"line": True}
    ),
    Bite(broken_records.ForgetsHoldsAtAPrune, "test_a11_a_hold_outlives_a_prune", {"line": False}),
    Bite(broken_records.ForgetsHoldsAtAPrune, "test_a11_a_hold_outlives_a_prune", {"line": True}),
    Bite(
        broken_records.ParksEmptyLines,
        "test_c9_a_full_line_that_lost_its_jobs_gives_the_next_one",
    ),
    Bite(broken_records.GivesNumbersForBooleans, "test_c3_a_claimed_job_is_leased"),
    # Nothing in these cases compares what is broken: the check after every case notices.
    Bite(broken_records.KeepsCauses, "test_a10_each_transition_sees_the_one_before"),
    Bite(
        broken_records.KeepsCausesOfTheCancelled,
        "test_a3_every_move_from_every_state",
        {"move": "set aside", "start": "asked to cancel"},
    ),
    Bite(broken_records.LooksAtTheOldestOnly, "test_t2_a_large_count_does_not_hide_a_small_one"),
    Bite(
        broken_records.DropsStrikes,
        "test_s1_settings_come_back_equal",
        {"given": QueueSettings(strikes=b"[]")},
    ),
    Bite(broken_records.AsksNewJobsToCancel, "test_p1_the_same_id_may_exist_in_two_queues"),
    Bite(broken_records.ForgetsWhenJobsAreDue, "test_c2_a_delayed_job_waits_for_its_time"),
    Bite(broken_records.DropsAField, "test_g1_every_field_outlives_every_verb"),
    Bite(broken_records.CutsAtNul, "test_g1_text_with_nul_comes_back_equal_or_is_refused"),
    Bite(broken_records.TiesAreNewest, "test_f1_jobs_of_one_instant_are_all_there"),
    Bite(broken_reading.IgnoresTheTask, "test_f2_a_task_filters", {"state": State.WAITING}),
    Bite(broken_reading.IgnoresTheCause, "test_f2_a_cause_filters"),
    Bite(broken_reading.TakesErrorsByPart, "test_f2_an_error_filters"),
    Bite(broken_reading.FindsByText, "test_f2_what_a_payload_says_is_no_filter"),
    Bite(broken_reading.TakesEither, "test_f2_filters_hold_together"),
    Bite(
        broken_reading.LooksAtEverything,
        "test_f2_a_page_looks_at_so_many_and_no_more",
        {"newest": False},
    ),
    Bite(
        broken_reading.LooksAtAsManyAsItGives,
        "test_f2_a_page_looks_at_so_many_and_no_more",
        {"newest": True},
    ),
    Bite(
        broken_reading.BeginsAgainWithABadCursor,
        "test_f4_what_is_no_cursor_is_told",
        {"text": "x:y"},
    ),
    Bite(
        broken_reading.StartsAfterTheInstant,
        "test_f6_a_page_starts_at_an_instant",
        {"state": State.DEAD, "newest": False},
    ),
    Bite(broken_reading.KnowsNoTime, "test_f5_a_page_tells_the_time_of_the_store"),
    Bite(broken_events.TellsOfNoClaim, "test_e1_a_job_is_told_of_in_the_order_of_its_life"),
    Bite(broken_events.TellsOfStarts, "test_e1_a_job_is_told_of_in_the_order_of_its_life"),
    Bite(broken_events.TellsBackwards, "test_e1_a_batch_tells_each_of_its_jobs"),
    Bite(broken_events.PassesNothingOn, "test_e1_what_a_transition_tells_is_passed_on"),
    Bite(broken_events.TellsLargeProgress, "test_e1_progress_is_told_with_what_it_is"),
    Bite(broken_events.TellsOfNoPrune, "test_e1_a_removal_is_told_of", {"way": "prune"}),
    Bite(broken_events.TellsOfNoTakeover, "test_e1_a_lease_taken_over_is_told_of"),
    Bite(broken_events.TellsOfAllSettings, "test_e1_a_pause_is_told_of"),
    Bite(broken_events.TellsOfAllQueues, "test_e1_a_queue_tells_of_its_own_jobs_only"),
    Bite(broken_events.BeginsAtTheBeginning, "test_e2_none_is_from_now_on"),
    Bite(broken_events.HidesGaps, "test_e2_what_is_no_cursor_is_a_gap", {"cursor": "-1"}),
    Bite(broken_events.HidesGaps, "test_e3_the_newest_are_kept_and_lost_ones_are_told_of"),
    Bite(broken_events.KeepsThemAnyway, "test_e3_none_are_kept_if_none_are_wanted"),
    Bite(broken_events.TellsOfDuplicates, "test_e4_what_is_refused_makes_no_event"),
    Bite(
        broken_events.TellsOfRepeats,
        "test_e4_an_operation_sent_again_makes_no_event",
        {"faults": [lost]},
    ),
    Bite(
        broken_keys.EndsThrottlesWithTheJob,
        "test_p3_a_ttl_outlives_its_job",
        {"state": "completed"},
    ),
    Bite(broken_keys.ThrottlesForEver, "test_p3_a_ttl_ends_after_the_record"),
    Bite(
        broken_keys.EndsThrottlesEarly,
        "test_p3_a_ttl_ends_by_the_stores_clock",
        {"state": "waiting"},
    ),
    Bite(broken_keys.KeepsKeysOfTheRemoved, "test_p3_a_removal_ends_a_ttl", {"state": "completed"}),
    Bite(broken_keys.ForgetsThrottlesOfThePruned, "test_p3_a_ttl_outlives_the_record"),
    Bite(broken_keys.ForgetsModes, "test_p3_a_mode_comes_back_equal", {"mode": "throttle"}),
    Bite(broken_keys.AsksOthersBeforeEveryMove, "test_a6_a_job_whose_time_is_over_goes_on"),
    Bite(broken_keys.RedrivesWithoutItsKey, "test_a6_a_redriven_job_has_a_whole_ttl_again"),
    Bite(
        broken_keys.ReplacesNothing,
        "test_p9_an_owner_gets_the_new_content",
        {"state": "waiting", "first": "plain", "mode": "replace"},
    ),
    Bite(
        broken_keys.ReplacesAnybody,
        "test_p9_an_owner_that_does_not_wait_is_untouched",
        {"state": "active", "mode": "replace"},
    ),
    Bite(broken_keys.KeepsFormerSteps, "test_p9_nothing_of_the_former_content_is_left"),
    Bite(broken_keys.KeepsFormerAttempts, "test_p9_nothing_of_the_former_content_is_left"),
    Bite(broken_keys.LosesItsPlace, "test_p9_an_owner_keeps_its_place_or_moves_to_a_priority"),
    Bite(broken_keys.MovesToTheNewLine, "test_p9_an_owner_stays_in_its_line", {"group": "other"}),
    Bite(
        broken_keys.ExtendsNoDelay,
        "test_p9_extend_begins_the_delay_anew",
        {"state": "delayed", "run_at": None},
    ),
    Bite(broken_keys.ExtendsEveryDelay, "test_p9_without_extend_the_time_stays"),
    Bite(broken_keys.KeepsTheFirstTtl, "test_p9_a_ttl_begins_anew"),
    Bite(broken_keys.KeepsTheFirstTtl, "test_p9_a_ttl_ends_where_the_new_content_has_none"),
    Bite(
        broken_keys.FollowsNobody, "test_p10_behind_a_running_owner_one_waits", {"first": "plain"}
    ),
    Bite(
        broken_keys.HasManySuccessors,
        "test_p10_a_later_one_replaces_the_successor",
        {"state": "active"},
    ),
    Bite(
        broken_keys.ReplacesOwnersFirst,
        "test_p10_a_later_one_replaces_the_successor",
        {"state": "delayed"},
    ),
    Bite(
        broken_keys.CountsTheGoneAsSuccessors,
        "test_p10_a_successor_that_went_is_succeeded",
        {"way": "cancel"},
    ),
    Bite(
        broken_keys.ForgetsSuccessors,
        "test_p11_a_successor_waits_when_its_owner_ended",
        {"first": "plain", "end": "complete"},
    ),
    Bite(broken_keys.ForgetsSuccessors, "test_p11_none_is_lost_while_owners_end"),
    Bite(broken_keys.LetsSuccessorsGoEarly, "test_p11_a_successor_is_never_early"),
    Bite(broken_keys.HandsOverAtARetry, "test_p11_a_retry_of_the_owner_ends_nothing"),
    Bite(broken_keys.SuccessorsOwnNothing, "test_p11_a_key_goes_from_successor_to_successor"),
    Bite(
        broken_keys.LetsSuccessorsGoInSilence,
        "test_w1_a_successor_that_is_let_go_ends_the_wait",
        {"way": "release", "is_same": True},
    ),
    Bite(
        broken_keys.HidesThrottledOwners,
        "test_d1_the_owner_is_known_while_it_owns",
        {"mode": "throttle"},
    ),
    Bite(
        broken_keys.ReleasesForAnybody,
        "test_d2_a_released_key_is_free",
        {"mode": "plain", "state": "waiting"},
    ),
    Bite(
        broken_keys.RemovesTheReleased,
        "test_d2_a_released_key_is_free",
        {"mode": "plain", "state": "waiting"},
    ),
    Bite(
        broken_keys.TakesKeysInTwoSteps,
        "test_p3_of_many_producers_one_owns_each_key",
        {"mode": "plain"},
    ),
    Bite(broken.ForgetsPush, "test_p4_a_repeat_replaces_nothing_again", {"mode": "replace"}),
    Bite(
        broken.ForgetsPush,
        "test_p4_a_replacement_is_known_after_its_job_ended",
        {"end": "complete"},
    ),
)


@pytest.mark.parametrize("bite", BITES, ids=str)
async def test_a_broken_driver_fails_the_case_named_for_it(bite: Bite) -> None:
    await run(MemoryDriver, bite.case, **bite.params)
    with pytest.raises((AssertionError, StoreError, LookupError)):
        await run(bite.kind, bite.case, **bite.params)


@pytest.mark.parametrize(
    ("kind", "case"),
    [
        (broken.Deaf, "test_w1_a_push_ends_the_wait"),
        (broken.Deaf, "test_w1_it_wakes_again_and_again"),
        (broken.ListensLate, "test_w3_what_came_between_claim_and_wait_counts"),
        (broken.IsDeafToRoom, "test_w4_room_ends_the_wait_whatever_ended_before"),
        (
            broken_records.TellsOfWaitingOnly,
            "test_w1_a_delayed_job_that_is_due_first_ends_the_wait",
        ),
        (broken_records.TellsNoSettings, "test_w1_new_settings_end_any_wait"),
        (broken_events.WakesNobody, "test_e2_an_event_ends_the_wait"),
        (broken_events.SkipsOne, "test_e2_pages_tell_each_event_once"),
    ],
)
async def test_a_deaf_driver_fails(
    kind: type[MemoryDriver], case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = {"by": "postpone"} if "due_first" in case else {}
    await run(MemoryDriver, case, **params)
    for cases in (events, holds, waiting):
        monkeypatch.setattr(cases, "AGES", 0.01)
    with pytest.raises(AssertionError):
        await run(kind, case, **params)
