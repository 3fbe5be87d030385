"""The gate: each status, the grace time, and that silence ends nobody and mends nothing."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.license import LicenseGate, license_failed
from wire.entries import Billing, LicenseState, LicenseStatus
from wire.errors import Close, LicenseError

READY, CONNECTED, TRUSTED, FAILED = LicenseState
STATUS = LicenseStatus(CONNECTED, "id", Billing.USAGE, ("english",), 3, 1, 2, 3)


def gate(state: LicenseState | None = CONNECTED, **changed) -> LicenseGate:
    found = LicenseGate(grace_s=60)
    found.heard(replace(STATUS, state=state, **changed) if state else None, 0.0)
    return found


@pytest.mark.parametrize("state", [CONNECTED, TRUSTED])
def test_a_licence_that_is_trusted_admits_its_pools(state):
    assert gate(state).refusal("english") is None
    refusal = gate(state).refusal("multilang")
    assert refusal is not None
    assert (refusal.code, refusal.text) == (
        Close.UNAUTHORIZED,
        "Unauthorized Connection: The license does not include the pool 'multilang'",
    )
    assert gate(state, pools=("*",)).refusal("multilang") is None


@pytest.mark.parametrize("state", [READY, None])
def test_nothing_validated_and_nothing_known_admit_nobody(state):
    refusal = gate(state).refusal("english")
    assert refusal is not None
    assert refusal.code is Close.SERVER_ERROR
    assert "has not been validated" in refusal.text


def test_a_failed_licence_admits_nobody():
    refusal = gate(FAILED).refusal("english")
    assert refusal is not None
    assert (refusal.code, refusal.text) == (license_failed().code, license_failed().text)


def test_a_stack_without_a_licence_admits_until_a_status_comes():
    free = LicenseGate(required=False)
    assert free.refusal("english") is None
    assert not free.tracks_usage
    free.heard(None, 0.0)
    assert free.refusal("english") is None
    free.heard(replace(STATUS, state=READY), 1.0)
    assert free.refusal("english") is not None
    free.heard(None, 2.0)
    assert free.refusal("english") is not None


def test_limits_and_billing_are_the_licence_s():
    assert gate().max_sessions == 3
    assert gate(None).max_sessions == 0
    assert gate().tracks_usage
    assert not gate(billing=Billing.FLAT).tracks_usage
    assert gate(None).tracks_usage


# ---------------------------------------------------------------------------------------------------------------------
# failing


def test_a_failure_ends_the_node_after_the_grace_and_says_why():
    failing = gate(FAILED, reason="the license has expired")
    assert failing.next_deadline() == 60.0
    failing.check(59.999)
    with pytest.raises(LicenseError, match="the license has expired"):
        failing.check(60.0)


def test_no_grace_is_none():
    failing = LicenseGate(grace_s=0)
    failing.heard(replace(STATUS, state=FAILED), 5.0)
    with pytest.raises(LicenseError):
        failing.check(5.0)


@pytest.mark.parametrize("state", [READY, CONNECTED, TRUSTED])
def test_it_is_mended_by_a_better_status(state):
    failing = gate(FAILED)
    failing.heard(replace(STATUS, state=state), 30.0)
    assert failing.next_deadline() is None
    failing.check(1e9)


def test_repeated_and_silent_it_goes_on_failing():
    failing = gate(FAILED)
    failing.heard(None, 10.0)
    failing.heard(replace(STATUS, state=FAILED), 50.0)
    failing.heard(None, 55.0)
    assert failing.next_deadline() == 60.0
    with pytest.raises(LicenseError, match="not valid"):
        failing.check(60.0)


@pytest.mark.parametrize("state", [READY, CONNECTED, TRUSTED, None])
def test_nothing_else_ends_the_node(state):
    other = gate(state)
    assert other.next_deadline() is None
    other.check(1e9)


statuses = st.none() | st.sampled_from(LicenseState).map(lambda state: replace(STATUS, state=state))


@given(st.lists(st.tuples(statuses, st.floats(0, 30)), max_size=30))
def test_any_history_ends_a_node_only_after_a_grace_of_failure(history):
    watched, now, failing_since = LicenseGate(grace_s=60), 0.0, None
    for status, seconds in history:
        now += seconds
        watched.heard(status, now)
        if status is not None:
            failing_since = (
                (failing_since if failing_since is not None else now) if status.state is FAILED else None
            )
        if failing_since is not None and now - failing_since >= 60:
            with pytest.raises(LicenseError):
                watched.check(now)
        elif failing_since is None or now < failing_since + 60:
            watched.check(now)
        serving = status is not None and status.state in (CONNECTED, TRUSTED)
        assert (watched.refusal("english") is None) == serving
