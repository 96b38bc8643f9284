"""How long a server is waited for, and how fast it is asked."""

import pytest

from unteach.inference.backends.http_client import (
    LONGEST_WAIT,
    RateLimit,
    compute_wait,
    parse_retry_after,
)


def test_waits_double_up_to_a_limit_with_jitter_and_never_undercut_the_server() -> None:
    assert [compute_wait(attempt, 0, 0.5, jitter=1.0) for attempt in range(4)] == [
        0.5,
        1.0,
        2.0,
        4.0,
    ]
    assert compute_wait(3, 0, 0.5, jitter=0.0) == 2.0
    assert compute_wait(30, 0, 0.5, jitter=1.0) == LONGEST_WAIT
    assert compute_wait(0, 7.5, 0.5, jitter=1.0) == 7.5
    assert compute_wait(5, 7.5, 0.5, jitter=1.0) == 16.0


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("3", 3.0),
        ("0.25", 0.25),
        ("-1", 0.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40.0),
        ("soon", 0.0),
        ("nan", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(said: str, seconds: float) -> None:
    assert parse_retry_after({"retry-after": said}, now=60.0) == seconds
    assert parse_retry_after({}, now=60.0) == 0.0


def test_pace_spreads_turns_evenly_and_counts_what_was_spent() -> None:
    now = 100.0
    pace = RateLimit(60, clock=lambda: now)
    assert [pace.reserve() for _ in range(3)] == [0.0, 1.0, 2.0]
    now = 102.5
    assert pace.reserve() == pytest.approx(0.5)
    pace.add(-1)
    assert pace.reserve(5) == pytest.approx(0.5)
    assert pace.reserve() == pytest.approx(5.5)
    pace.pause(30)
    assert pace.reserve() == 30.0
    unlimited = RateLimit(None, clock=lambda: now)
    assert [unlimited.reserve(1e9) for _ in range(3)] == [0.0, 0.0, 0.0]
    unlimited.pause(2)
    assert [unlimited.reserve(), unlimited.reserve()] == [2.0, 2.0]
