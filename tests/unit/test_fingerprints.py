"""Fingerprints of errors: what changes from one time to the next is left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from taskmux.model.job import ErrorInfo
from taskmux.policy.fingerprints import LONGEST, fingerprint, pattern_of


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("user 17 not found", "user 18 not found"),
        ("took 1.5 s, limit 30", "took 12,000.25 s, limit 5"),
        (
            "no order 9f1c2d3e-0000-4000-8000-1234567890ab",
            "no order 00000000-1111-4222-8333-abcdefabcdef",
        ),
        ("no such key: 'user:1'", "no such key: 'order/2 of Bob'"),
        ('bad value "a"', 'bad value "b c"'),
        ("at 2026-01-31T10:00:00.123Z", "at 2027-12-01 11:59:59+02:00"),
        ("<object at 0x7f00aa>", "<object at 0x7f11bb12>"),
        ("cannot open /tmp/a/b.txt", "cannot open /var/lib/x/y-2.log"),
        ("refused by 10.0.0.1:6379", "refused by 192.168.1.20:7000"),
        ("mail to a.b@example.org bounced", "mail to c+d@mail.example.com bounced"),
        ("GET https://a.example/x?y=1 failed", "GET https://b.example/ failed"),
        ("commit 3f2a9c1b0d", "commit 99ffee0012ab"),
        ("order 01ARZ3NDEKTSV4RRFFQ69G5FAV", "order 01BX5ZZKBKACTAV9WEVGEMMVRZ"),
        ("charge ch_3MmlLrLkdIwHu7ix0snN0B15", "charge ch_1NirD82eZvKYlo2CIvbtLWuY"),
        ("from 2001:db8::ff00:42:8329", "from fe80::1ff:fe23:4567:890a"),
        (r"no file C:\Users\a b", r"no file D:\data b"),
        ("line one\n  two", "line one two"),
    ],
)
def test_what_changes_from_time_to_time_makes_no_other_error(one: str, other: str) -> None:
    assert pattern_of(one) == pattern_of(other)
    first, second = ErrorInfo("ValueError", one), ErrorInfo("ValueError", other)
    assert fingerprint("t", first) == fingerprint("t", second)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("user not found", "order not found"),
        ("connection refused", "connection reset"),
        ("timed out", ""),
        ("disk is full", "disc is full"),
    ],
)
def test_other_words_are_another_error(one: str, other: str) -> None:
    assert fingerprint("t", ErrorInfo("E", one)) != fingerprint("t", ErrorInfo("E", other))


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("KeyError", "'email'", "'card_number'"),
        ("ModuleNotFoundError", "No module named 'x'", "No module named 'y.z'"),
        (
            "AttributeError",
            "'User' object has no attribute 'name'",
            "'User' object has no attribute 'id'",
        ),
    ],
)
def test_a_name_in_the_program_tells_one_bug_from_another(kind: str, one: str, other: str) -> None:
    assert fingerprint("t", ErrorInfo(kind, one)) != fingerprint("t", ErrorInfo(kind, other))
    assert fingerprint("t", ErrorInfo("E", one)) == fingerprint("t", ErrorInfo("E", other)) or (
        kind == "ModuleNotFoundError" and "<text>" in pattern_of(one)
    )


def test_crashes_of_different_workers_are_alike() -> None:
    words = "its lease lapsed: worker {} died, hung or was cut off"
    first, second = (
        fingerprint("t", ErrorInfo("Crashed", words.format(name)))
        for name in ("vm-1-b12fb03a", "web.example.org-77-9")
    )
    assert first == second


def test_type_task_and_reason_count() -> None:
    error = ErrorInfo("E", "no")
    assert fingerprint("t", error) != fingerprint("u", error)
    assert fingerprint("t", error) != fingerprint("t", ErrorInfo("F", "no"))
    assert fingerprint("t", None, "crashed 4 times") == fingerprint("t", None, "crashed 5 times")
    assert fingerprint("t", None, "crashed 4 times") != fingerprint("t", None, "too old")


@given(st.text(max_size=3000))
def test_any_message_has_a_short_pattern_and_a_fingerprint(message: str) -> None:
    assert len(pattern_of(message)) <= LONGEST
    assert len(fingerprint("t", ErrorInfo("E", message))) == 8


@pytest.mark.parametrize(
    "text", ["0a" * 450 + "_v1", "f" * 900 + "_v1", "a1-" * 300 + "!", "0:" * 500]
)
def test_a_hostile_token_takes_no_long_time(text: str) -> None:
    """Ways to match that multiply would take minutes here."""
    for _ in range(50):
        pattern_of(f"bad signature {text}")


@pytest.mark.parametrize("part", ["a.", "/a", "'", "1.", "a@", "0-", "é", "f" * 9 + "g"])
def test_a_hostile_message_takes_no_long_time(part: str) -> None:
    """Patterns that go back and forth over a text would take minutes for such a one."""
    pattern_of(part * 5000)
