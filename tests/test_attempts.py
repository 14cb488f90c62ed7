"""Wrong passwords: when each is answered."""

import pytest

from mc.web.access.attempts import LONGEST_IN_LINE, RATE, Attempts

# Seconds that a test may take until a place in the line has moved on by so much.
SLACK = 5.0


def wrong(attempts: Attempts, address: str, account: str = "admin") -> float:
    seconds = attempts.wrong(address, account)
    assert seconds is not None
    return seconds


def test_first_wrong_one_waits_a_little_and_further_ones_longer() -> None:
    assert wrong(Attempts(), "192.0.2.1") == pytest.approx(0.1)
    attempts = Attempts()
    delays = [wrong(attempts, "192.0.2.1") for _ in range(5)]
    assert delays == sorted(delays)
    assert delays[4] >= 1.59


@pytest.mark.parametrize(
    ("address", "account"),
    [("192.0.2.1", "other"), ("192.0.2.200", "other"), ("2001:db8::1", "admin")],
)
def test_address_network_and_account_count_each(address: str, account: str) -> None:
    attempts = Attempts()
    for _ in range(4):
        attempts.wrong("192.0.2.1", "admin")
    assert wrong(attempts, address, account) == pytest.approx(1.6)
    assert wrong(attempts, "198.51.100.1", "somebody") < 1.5


def test_ipv6_network_is_one_source() -> None:
    attempts = Attempts()
    for number in range(4):
        attempts.wrong(f"2001:db8:1:{number}::1", f"user {number}")
    assert wrong(attempts, "2001:db8:1:ff::1", "user") == pytest.approx(1.6)
    assert wrong(attempts, "2001:db8:2::1", "user x") < 1.5


def test_many_are_answered_one_after_the_other_whoever_they_are_from() -> None:
    attempts = Attempts()
    delays = [wrong(attempts, f"10.{number}.0.1", f"user {number}") for number in range(60)]
    assert delays == sorted(delays)
    assert delays[-1] >= 59 / RATE - SLACK


def test_line_has_an_end_beyond_which_nothing_is_said() -> None:
    attempts = Attempts()
    delays = [
        attempts.wrong(f"10.{number // 250}.{number % 250}.1", f"{number}")
        for number in range(1000)
    ]
    answered = [delay for delay in delays if delay is not None]
    assert LONGEST_IN_LINE - SLACK <= max(answered) <= LONGEST_IN_LINE
    assert len(answered) <= (LONGEST_IN_LINE + SLACK) * RATE
    assert delays[-1] is None


def test_memory_is_bounded_in_number_and_in_bytes() -> None:
    attempts = Attempts()
    for number in range(5000):
        attempts.wrong(f"10.{number // 250}.{number % 250}.1", f"{number}" * 1000)
    sources = attempts._sources.values()
    assert all(len(known) <= 4096 for known in sources)
    assert max(len(key) for known in sources for key in known) < 64
