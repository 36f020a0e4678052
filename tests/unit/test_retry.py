from __future__ import annotations

from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from taskmux.model.backoff import (
    DEFAULT_BACKOFF,
    Backoff,
    Exponential,
    Fixed,
    Linear,
    Steps,
    as_backoff,
)
from taskmux.model.errors import DeclarationError
from taskmux.model.job import JobRecord, Policy, State
from taskmux.policy.lifecycle import Crashed, Run, decide

seconds = st.floats(min_value=0, max_value=1e9)
jitters = st.floats(min_value=0, max_value=1)
attempts = st.integers(min_value=1, max_value=10**6)
seeds = st.integers(min_value=0, max_value=2**32)


@st.composite
def policies(draw: st.DrawFn) -> Backoff:
    jitter = draw(jitters)
    cap = draw(st.none() | seconds)
    return draw(
        st.one_of(
            st.builds(lambda every: Fixed(every, jitter=jitter), seconds),
            st.builds(lambda step: Linear(step, cap=cap, jitter=jitter), seconds),
            st.builds(
                lambda first, factor: Exponential(first, factor=factor, cap=cap, jitter=jitter),
                seconds,
                st.floats(min_value=1, max_value=100),
            ),
            st.builds(lambda delays: Steps(*delays, jitter=jitter), st.lists(seconds, min_size=1)),
        )
    )


class TestBounds:
    @given(policies(), attempts, seeds)
    def test_a_delay_is_between_nothing_and_the_cap(self, policy, attempt, seed):
        delay = policy.delay_ms(attempt, Random(seed))
        assert isinstance(delay, int)
        assert 0 <= delay <= policy.cap_ms

    @given(policies(), attempts, seeds)
    def test_a_delay_keeps_its_fixed_part_and_never_exceeds_its_base(self, policy, attempt, seed):
        base = min(policy.base_ms(attempt), policy.cap_ms)
        delay = policy.delay_ms(attempt, Random(seed))
        assert base * (1 - policy.jitter) - 1 <= delay <= base + 1

    @given(st.integers(min_value=1, max_value=10**9), seeds)
    def test_the_same_source_of_chance_gives_the_same_delay(self, first, seed):
        policy = Exponential(first)
        assert policy.delay_ms(3, Random(seed)) == policy.delay_ms(3, Random(seed))

    def test_full_jitter_uses_the_whole_range(self):
        rng = Random(7)
        delays = [Fixed("1s").delay_ms(1, rng) for _ in range(1000)]
        assert min(delays) < 50
        assert max(delays) > 950

    def test_jitter_is_of_the_capped_delay(self):
        """Else nearly all that are over their cap come back at the same instant."""
        rng, policy = Random(7), Exponential("1h", cap="1s")
        delays = [policy.delay_ms(20, rng) for _ in range(1000)]
        assert 0 <= min(delays) < 50
        assert 950 < max(delays) <= 1000
        assert len(set(delays)) > 500

    @pytest.mark.parametrize("policy", [Fixed("1s", jitter=0.25), Steps("1s", jitter=0.25)])
    def test_some_jitter_leaves_the_rest_fixed(self, policy):
        rng = Random(7)
        delays = [policy.delay_ms(1, rng) for _ in range(1000)]
        assert 750 <= min(delays) < 765
        assert 985 < max(delays) <= 1000


class TestAfterACrash:
    """A job whose worker was lost comes back later each time, and never at once with the others."""

    @staticmethod
    def longest(crashes: int) -> int:
        job = JobRecord(
            queue="q",
            id="j",
            task="t",
            state=State.ACTIVE,
            fence=7,
            started=True,
            crashes=crashes,
            policy=Policy(max_crashes=100),
        )
        rng = Random(7)
        made = [decide(job, Crashed(), Run(worker="w"), rng) for _ in range(300)]
        assert {one.to for one in made} <= {State.DELAYED, State.WAITING}
        assert len({one.delay for one in made}) > 200, "they would all come back together"
        return max(one.delay for one in made)

    def test_the_wait_grows_up_to_a_minute(self):
        longest = [self.longest(crashes) for crashes in (0, 1, 2, 3, 50)]
        for wait, limit in zip(longest, (1_000, 2_000, 4_000, 8_000, 60_000), strict=True):
            assert 0.9 * limit < wait <= limit


class TestWithoutJitter:
    @given(st.integers(min_value=0, max_value=10**9), attempts, seeds)
    def test_fixed_is_exact(self, ms, attempt, seed):
        assert Fixed(ms / 1000, jitter=0).delay_ms(attempt, Random(seed)) == ms

    @given(st.integers(min_value=0, max_value=10**6), st.integers(1, 1000), seeds)
    def test_linear_is_exact(self, ms, attempt, seed):
        assert Linear(ms / 1000, jitter=0).delay_ms(attempt, Random(seed)) == ms * attempt

    def test_exponential_is_exact_up_to_its_cap(self):
        policy = Exponential("1s", cap="10s", jitter=0)
        delays = [policy.delay_ms(attempt, Random(1)) for attempt in range(1, 7)]
        assert delays == [1000, 2000, 4000, 8000, 10_000, 10_000]

    def test_a_factor_is_used(self):
        policy = Exponential("100ms", factor=3, jitter=0)
        assert [policy.delay_ms(n, Random(1)) for n in (1, 2, 3)] == [100, 300, 900]

    def test_steps_come_in_turn_and_the_last_repeats(self):
        policy = Steps("1s", "1m", "1h", jitter=0)
        delays = [policy.delay_ms(attempt, Random(1)) for attempt in (1, 2, 3, 4, 99)]
        assert delays == [1000, 60_000, 3_600_000, 3_600_000, 3_600_000]


class TestDeclarations:
    @given(policies())
    def test_a_policy_can_be_stored_with_a_job(self, policy):
        stored = msgspec.json.encode(Policy(backoff=policy))
        assert msgspec.json.decode(stored, type=Policy).backoff == policy

    def test_the_forms_that_a_declaration_may_take(self):
        assert as_backoff("5s") == Fixed("5s")
        assert as_backoff(5) == Fixed("5s")
        assert as_backoff(["1s", "2s"]) == Steps("1s", "2s")
        assert as_backoff(DEFAULT_BACKOFF) is DEFAULT_BACKOFF

        def grow(attempt: int, error: BaseException) -> str:
            return f"{attempt}s"

        assert as_backoff(grow) is grow

    @pytest.mark.parametrize(
        "declare",
        [
            lambda: Fixed("soon"),
            lambda: Fixed("1s", jitter=1.1),
            lambda: Fixed("1s", jitter=-0.1),
            lambda: Fixed("1s", jitter=True),
            lambda: Linear("-1s"),
            lambda: Exponential("1s", factor=0.5),
            lambda: Exponential("1s", factor=float("nan")),
            lambda: Exponential("1s", cap="never"),
            Steps,
            lambda: Steps("1s", "x"),
            lambda: as_backoff(None),
            lambda: as_backoff([]),
            lambda: as_backoff({"kind": "fixed"}),
        ],
    )
    def test_a_wrong_one_is_refused(self, declare):
        with pytest.raises(DeclarationError):
            declare()


class TestTheDefault:
    @given(seeds)
    def test_the_default_attempts_ride_out_a_minute(self, seed):
        rng = Random(seed)
        waits = [DEFAULT_BACKOFF.delay_ms(number, rng) for number in (1, 2)]
        assert Policy().max_attempts == 3  # so there are two waits
        assert sum(waits) >= 60_000
        assert waits[0] <= 20_000  # what passes at once is not waited for too long

    @given(attempts, seeds)
    def test_no_wait_is_longer_than_ten_minutes(self, attempt, seed):
        assert DEFAULT_BACKOFF.delay_ms(attempt, Random(seed)) <= 600_000
