"""Wrong passwords: when each is answered, and what is not looked at."""

from itertools import count

import pytest

from mc.web.access.attempts import MOST, RATE, Attempts, TooManyAttempts

# Seconds that a test may take until a place in the line has moved on by so much.
SLACK = 5.0


def test_first_wrong_one_waits_a_little_and_further_ones_longer() -> None:
    delays = [Attempts().wrong("192.0.2.1", "admin")]
    attempts = Attempts()
    delays += [attempts.wrong("192.0.2.1", "admin") for _ in range(5)]
    assert delays[:2] == [0.1, 0.1]
    assert delays[1:] == sorted(delays[1:])
    assert delays[5] == 1.6


@pytest.mark.parametrize(
    ("address", "account"),
    [
        ("192.0.2.1", "other"),
        ("192.0.2.200", "other"),
        ("2001:db8::1", "admin"),
    ],
)
def test_address_network_and_account_count_each(address: str, account: str) -> None:
    attempts = Attempts()
    for _ in range(4):
        attempts.wrong("192.0.2.1", "admin")
    assert attempts.wrong(address, account) == 1.6
    assert attempts.wrong("198.51.100.1", "somebody") < 1.6


def test_ipv6_network_is_one_source() -> None:
    attempts = Attempts()
    for number in range(4):
        attempts.wrong(f"2001:db8:1:{number}::1", f"user {number}")
    assert attempts.wrong("2001:db8:1:ff::1", "user") == 1.6
    assert attempts.wrong("2001:db8:2::1", "user x") < 1.6


def test_many_are_answered_one_after_the_other_whoever_they_are_from() -> None:
    attempts = Attempts()
    delays = [attempts.wrong(f"10.{number}.0.1", f"user {number}") for number in range(60)]
    assert delays == sorted(delays)
    assert delays[-1] >= 59 / RATE - SLACK
    assert max(attempts.wrong(f"10.{n}.1.1", "x") for n in range(200)) == 20.0


def test_line_has_an_end_beyond_which_who_is_known_for_guessing_is_not_looked_at() -> None:
    attempts = Attempts()
    for number in count():
        attempts.wrong(f"10.0.0.{number % 250}", "admin")
        if number > MOST + SLACK * RATE:
            break
    with pytest.raises(TooManyAttempts):
        attempts.check("10.0.0.251")
    attempts.check("10.0.1.1")
    for _ in range(10):
        attempts.wrong("10.0.1.1", "admin")
    with pytest.raises(TooManyAttempts):
        attempts.check("10.0.1.1")


def test_memory_is_bounded_and_forgets_the_oldest() -> None:
    attempts = Attempts()
    attempts.wrong("192.0.2.1", "admin")
    for number in range(5000):
        attempts.check(f"10.{number // 250}.{number % 250}.1")
        attempts.wrong(f"10.{number // 250}.{number % 250}.1", f"user {number}")
    # As if it had never been heard of.
    sources = attempts._sources
    assert all(len(known) == 4096 for known in sources.values())
    assert "admin" not in sources["account"]
