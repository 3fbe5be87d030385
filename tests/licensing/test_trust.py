"""What checks are worth: examples of each state, properties of any history, and a machine against an obvious model."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from licensing.license import Verdict, parse_keys, read_license, read_verdict
from licensing.minting import SigningKey, Terms, answer, mint
from licensing.trust import FIRST_RETRY_S, LAST_RETRY_S, Ratchet, TrustState, TrustWindow, seal, unseal
from wire.entries import LicenseState

NOW_S = 1_800_000_000.0
INTERVAL_S, WINDOW_S, DAYS = 100.0, 1000.0, 1
END_S = NOW_S + DAYS * 86_400
KEY = SigningKey.generate()
KEYS = parse_keys(KEY.key_set())
TERMS = Terms("Acme", DAYS, checkin_url="https://issuer.example", checkin_s=INTERVAL_S, trust_s=WINDOW_S)
LICENSE = read_license(mint(KEY, "vendor", "id-1", TERMS, NOW_S), KEYS, "vendor", NOW_S)
OFFLINE = read_license(mint(KEY, "vendor", "id-2", Terms("Acme", DAYS), NOW_S), KEYS, "vendor", NOW_S)

READY, CONNECTED, TRUSTED, FAILED = LicenseState


def verdict(at_s: float, passed: bool = True, reason: str = "") -> Verdict:
    return read_verdict(answer(KEY, "vendor", "id-1", "n", passed, reason, at_s), KEYS, LICENSE, "n")


def passed_at(at_s: float) -> TrustWindow:
    window = TrustWindow(LICENSE)
    window.checked(verdict(at_s), at_s, 0.5)
    return window


def due(window: TrustWindow) -> float:
    at_s = window.next_checkin()
    assert at_s is not None
    return at_s


# ---------------------------------------------------------------------------------------------------------------------
# states


def test_nothing_is_validated_at_first():
    found = TrustWindow(LICENSE).status(NOW_S)
    assert (found.state, found.last_success_s, found.trust_until_s) == (READY, None, None)
    assert "nothing was validated" in found.reason


def test_an_issuer_that_was_never_reached_leaves_it_ready():
    window = TrustWindow(LICENSE)
    window.unreachable(NOW_S, 0)
    assert window.status(NOW_S + 10 * WINDOW_S).state is READY
    assert "not been reached" in window.status(NOW_S).reason


def test_a_success_connects_until_the_window_is_over():
    window = passed_at(NOW_S)
    found = window.status(NOW_S)
    assert (found.state, found.last_success_s, found.trust_until_s) == (CONNECTED, NOW_S, NOW_S + WINDOW_S)
    assert found.reason == ""
    assert window.status(NOW_S + WINDOW_S - 0.001).state is CONNECTED
    assert window.status(NOW_S + WINDOW_S).state is FAILED


def test_a_missed_check_is_trusted_until_the_window_is_over():
    window = passed_at(NOW_S)
    window.unreachable(NOW_S + 1, 0)
    assert window.status(NOW_S + WINDOW_S - 0.001).state is TRUSTED
    assert "out of reach" in window.status(NOW_S + 2).reason
    assert window.status(NOW_S + WINDOW_S).state is FAILED
    assert window.status(NOW_S + WINDOW_S).trust_until_s == NOW_S + WINDOW_S
    window.checked(verdict(NOW_S + WINDOW_S + 5), NOW_S + WINDOW_S + 5, 0)
    assert window.status(NOW_S + WINDOW_S + 5).state is CONNECTED


def test_a_refusal_stands_until_a_success():
    window = passed_at(NOW_S)
    window.checked(verdict(NOW_S + 1, False, "not paid"), NOW_S + 1, 0)
    found = window.status(NOW_S + 1)
    assert (found.state, found.last_success_s) == (FAILED, NOW_S)
    assert "not paid" in found.reason
    window.unreachable(NOW_S + 2, 0)
    assert window.status(NOW_S + 2).state is FAILED
    window.checked(verdict(NOW_S + 3), NOW_S + 3, 0)
    assert window.status(NOW_S + 3).state is CONNECTED


def test_a_licence_ends_whatever_the_issuer_says():
    window = passed_at(END_S - 1)
    assert window.trust_until_s == END_S
    assert window.status(END_S - 0.5).state is CONNECTED
    assert window.status(END_S).state is FAILED
    assert "expired" in window.status(END_S).reason


def test_a_licence_whose_time_has_not_come_yet():
    later = replace(LICENSE, not_before_s=NOW_S + 10)
    assert TrustWindow(later).status(NOW_S + 9.9).state is FAILED
    assert TrustWindow(later).status(NOW_S + 10).state is READY


def test_an_offline_licence_is_connected_to_its_end():
    window = TrustWindow(OFFLINE)
    assert window.next_checkin() is None
    found = window.status(NOW_S)
    assert (found.state, found.last_success_s, found.trust_until_s) == (CONNECTED, None, END_S)
    assert window.status(END_S - 0.001).state is CONNECTED
    assert window.status(END_S).state is FAILED


# ---------------------------------------------------------------------------------------------------------------------
# when to ask


def test_the_first_question_is_due_at_once():
    assert TrustWindow(LICENSE).next_checkin() == 0.0


@given(st.floats(0, 1, exclude_max=True))
def test_a_success_is_asked_for_again_at_about_the_interval(jitter: float):
    window = TrustWindow(LICENSE)
    window.checked(verdict(NOW_S), NOW_S, jitter)
    assert 0.9 * INTERVAL_S <= due(window) - NOW_S < 1.1 * INTERVAL_S
    assert due(window) - NOW_S == pytest.approx(INTERVAL_S * (0.9 + 0.2 * jitter), rel=1e-6)


def test_pauses_after_misses_double_up_to_the_longest():
    window = TrustWindow(replace(LICENSE, checkin_s=10_000.0))
    pauses = []
    for _ in range(12):
        window.unreachable(NOW_S, 0.999999)
        pauses.append(round(due(window) - NOW_S))
    assert pauses[:5] == [2, 4, 8, 16, 32]
    assert pauses[0] == FIRST_RETRY_S
    assert pauses[-1] == LAST_RETRY_S
    window.unreachable(NOW_S, 0.0)
    assert due(window) - NOW_S == LAST_RETRY_S / 2  # jitter: half of it to all of it


def test_a_miss_is_never_tried_again_later_than_a_success_would_be():
    window = TrustWindow(replace(LICENSE, checkin_s=5.0))
    for _ in range(100):
        window.unreachable(NOW_S, 0.999999)
        assert due(window) - NOW_S <= 5.0


def test_a_success_starts_the_pauses_anew():
    window = TrustWindow(LICENSE)
    for _ in range(5):
        window.unreachable(NOW_S, 0)
    window.checked(verdict(NOW_S), NOW_S, 0)
    window.unreachable(NOW_S, 0.999999)
    assert round(due(window) - NOW_S) == FIRST_RETRY_S


def test_while_one_asks_the_others_wait():
    window = TrustWindow(LICENSE)
    window.asking(NOW_S, 30.0)
    assert window.next_checkin() == NOW_S + 30
    assert window.status(NOW_S).state is READY
    assert window.state.serial == 1


def test_every_check_counts():
    window = TrustWindow(LICENSE)
    for number, act in enumerate((window.unreachable, window.asking, window.unreachable), start=1):
        act(NOW_S, 0.5)
        assert window.state.serial == number
    window.checked(verdict(NOW_S), NOW_S, 0.5)
    assert window.state.serial == 4
    window.checked(verdict(NOW_S, False), NOW_S, 0.5)
    assert window.state.serial == 5


# ---------------------------------------------------------------------------------------------------------------------
# clocks


@given(st.floats(-1e9, 1e9), st.floats(0, 2 * WINDOW_S))
def test_a_clock_set_back_lengthens_nothing(jump_s: float, later_s: float):
    window = passed_at(NOW_S)
    window.unreachable(NOW_S + later_s, 0)
    was = window.status(NOW_S + later_s).state
    after = window.status(NOW_S + later_s + jump_s).state
    if jump_s <= 0:
        assert after is was
    assert window.trust_until_s == NOW_S + WINDOW_S


def test_trust_counts_from_the_issuer_s_time_and_puts_the_clock_right():
    window = TrustWindow(LICENSE)
    window.status(NOW_S + 50_000)  # a clock that was wrong for a moment
    window.checked(verdict(NOW_S), NOW_S + 50_000, 0.5)
    assert window.trust_until_s == NOW_S + WINDOW_S
    assert window.status(NOW_S + 1).state is CONNECTED
    assert window.next_checkin() == pytest.approx(NOW_S + INTERVAL_S)


clocks = st.lists(st.tuples(st.floats(-1e5, 1e5), st.floats(0, 1e4)), min_size=1, max_size=20)


@given(clocks)
def test_a_ratchet_goes_forward_as_fast_as_what_nobody_can_set(steps: list[tuple[float, float]]):
    ratchet = Ratchet(NOW_S)
    monotonic_s, last_s = 7.0, ratchet.time(NOW_S, 7.0)
    assert last_s == NOW_S
    for jump_s, passed_s in steps:
        monotonic_s += passed_s
        wall_s = NOW_S + jump_s
        time_s = ratchet.time(wall_s, monotonic_s)
        assert time_s >= wall_s
        assert time_s - last_s >= passed_s - 1e-3
        assert time_s == pytest.approx(max(wall_s, last_s + passed_s))
        last_s = time_s


def test_a_ratchet_can_be_told_the_time_by_who_must_know_it():
    ratchet = Ratchet()
    assert ratchet.time(500.0, 0.0) == 500.0
    ratchet.set(200.0)
    assert ratchet.time(100.0, 1.0) == 201.0
    ratchet.advance(300.0)
    assert ratchet.time(100.0, 2.0) == 301.0
    ratchet.advance(50.0)
    assert ratchet.time(100.0, 2.0) == 301.0
    assert ratchet.time(100.0, 1.0) == 301.0  # a second clock that went back, too


# ---------------------------------------------------------------------------------------------------------------------
# restarts


def restarted(window: TrustWindow) -> TrustWindow:
    return TrustWindow(window.license, unseal(window.license, KEYS, seal(window.license, window.state)))


def test_what_is_kept_is_what_there_was():
    window = passed_at(NOW_S + 1)
    window.checked(verdict(NOW_S + 2, False, "no"), NOW_S + 2, 0.25)
    window.unreachable(NOW_S + 3, 0.75)
    again = restarted(window)
    assert again.state.next_s == pytest.approx(window.state.next_s, abs=0.001)
    assert replace(again.state, next_s=0) == replace(window.state, next_s=0)
    assert restarted(TrustWindow(LICENSE)).state == TrustState()


@pytest.mark.parametrize(
    "changed",
    [
        {"license": "id-9"},
        {"passed": answer(KEY, "vendor", "id-1", "n", True, "", NOW_S + 9_999)},
        {"passed": ""},
        {"refused": ""},
        {"missed": True},
        {"tries": 7},
        {"next_ms": 1},
        {"mark_ms": 1},
        {"serial": 99},
        {"seal": b""},
        {"seal": bytes(32)},
    ],
)
def test_what_was_edited_counts_for_nothing(changed):
    window = passed_at(NOW_S)
    window.checked(verdict(NOW_S + 1, False), NOW_S + 1, 0)
    record = seal(LICENSE, window.state)
    assert unseal(LICENSE, KEYS, record) is not None
    assert unseal(LICENSE, KEYS, replace(record, **changed)) is None


@pytest.mark.parametrize(
    "passed,refused",
    [
        ("forged", ""),
        ("", "forged"),
        (answer(SigningKey.generate(), "vendor", "id-1", "n", True, "", NOW_S), ""),
        (answer(KEY, "vendor", "id-9", "n", True, "", NOW_S), ""),
        (answer(KEY, "vendor", "id-1", "n", False, "", NOW_S), ""),
        ("", answer(KEY, "vendor", "id-1", "n", True, "", NOW_S)),
    ],
)
def test_even_under_a_good_seal_only_the_issuer_s_words_count(passed: str, refused: str):
    state = TrustState(
        passed=replace(verdict(NOW_S), token=passed) if passed else None,
        refused=replace(verdict(NOW_S), token=refused) if refused else None,
    )
    assert unseal(LICENSE, KEYS, seal(LICENSE, state)) is None


def test_another_text_of_the_licence_breaks_the_seal():
    record = seal(LICENSE, passed_at(NOW_S).state)
    assert unseal(replace(LICENSE, digest=bytes(32)), KEYS, record) is None


# ---------------------------------------------------------------------------------------------------------------------
# any history, against a model that is too simple to be wrong


class TrustMachine(RuleBasedStateMachine):
    """Time, outages, refusals, restarts and clocks set forth and back, over one licence.

    The model knows the true time, the times of the issuer's words, and nothing of marks and seals.
    """

    @initialize()
    def begin(self) -> None:
        self.true_s = NOW_S
        self.error_s = 0.0  # of the machine's clock
        self.monotonic_s = 0.0
        self.down_s = 0.0  # time that passed while nothing ran
        self.ratchet = Ratchet()
        self.window = TrustWindow(LICENSE)
        self.last_success_s: float | None = None
        self.refused = False
        self.missed = False

    def now(self) -> float:
        return self.ratchet.time(self.true_s + self.error_s, self.monotonic_s)

    @rule(seconds=st.floats(0, 1.5 * WINDOW_S))
    def time_passes(self, seconds: float) -> None:
        self.true_s += seconds
        self.monotonic_s += seconds
        self.now()  # the service looks every second

    @rule(error_s=st.floats(-1e6, 0))
    def the_clock_is_set_back(self, error_s: float) -> None:
        self.error_s = min(self.error_s, error_s)

    @rule()
    def the_clock_is_put_right(self) -> None:
        self.error_s = 0.0

    @rule(jitter=st.floats(0, 1, exclude_max=True))
    def the_issuer_says_yes(self, jitter: float) -> None:
        self.window.checked(verdict(self.true_s), self.now(), jitter)
        self.ratchet.set(self.true_s)
        self.last_success_s, self.refused, self.missed = self.true_s, False, False

    @rule(jitter=st.floats(0, 1, exclude_max=True))
    def the_issuer_says_no(self, jitter: float) -> None:
        self.window.checked(verdict(self.true_s, False, "no"), self.now(), jitter)
        self.refused, self.missed = True, False

    @rule(jitter=st.floats(0, 1, exclude_max=True))
    def the_issuer_is_away(self, jitter: float) -> None:
        self.window.unreachable(self.now(), jitter)
        self.missed = True

    @rule(seconds=st.floats(0, 2 * WINDOW_S))
    def it_is_started_again(self, seconds: float) -> None:
        """The machine was off for a while; its monotonic clock begins anew."""
        self.window.status(self.now())
        record = seal(LICENSE, self.window.state)
        self.true_s += seconds
        if self.error_s:
            self.down_s += seconds
        self.monotonic_s = 0.0
        state = unseal(LICENSE, KEYS, record)
        assert state is not None
        self.window = TrustWindow(LICENSE, state)
        self.ratchet = Ratchet(state.mark_s)

    @invariant()
    def it_is_what_the_model_says(self) -> None:
        found = self.window.status(self.now())
        # What a wrong clock hides at most is the time in which nothing ran; a right one hides nothing.
        least_s = self.true_s - self.down_s - 0.01
        if not self.error_s:
            assert self.window.state.mark_s >= self.true_s - 0.01
        until_s = None if self.last_success_s is None else min(self.last_success_s + WINDOW_S, END_S)
        assert found.trust_until_s == (None if until_s is None else pytest.approx(until_s, abs=0.01))
        if self.refused or least_s >= END_S or (until_s is not None and least_s >= until_s):
            assert found.state is FAILED
        elif found.state is not FAILED:
            wanted = READY if until_s is None else TRUSTED if self.missed else CONNECTED
            assert found.state is wanted
        else:  # never sooner than the true time says
            assert self.true_s + 0.01 >= (END_S if until_s is None else until_s)


TestTrustMachine = TrustMachine.TestCase
TestTrustMachine.settings = settings(stateful_step_count=30)
