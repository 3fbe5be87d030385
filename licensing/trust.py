"""What the checks of a licence are worth at a moment: Ready, Connected, TrustBased, Failed (protocol 8.4, 8.5).

Theory of operation. A successful check-in is a statement of the issuer, with the issuer's time in it, and trust is that
time plus the trust window, never beyond the licence's end. What a check may come to:

    passed       the issuer said yes, signed         Connected, for as long as the trust lasts
    missed       no usable answer                    TrustBased while the trust lasts, then Failed; Ready before the
                                                     first success
    refused      the issuer said no, signed          Failed, until it says yes again
    (none yet)                                       Ready

A licence without a check-in address is offline: it is Connected from the first moment to its end.

*Time.* All that is needed of the caller's `now` is that it does not fall behind what was seen before, and where it does
(a clock that was set back) it is not believed: time stands still here at the latest moment seen, `mark`. So that it
does not stand still for long, callers take `now` from a `Ratchet`, which lets time go on at the rate of a clock that
nobody can set. A success puts both right by the issuer's time, since a clock that was wrong for an hour must not cost
a licence for ever.

*Restarts.* What is kept are the issuer's own signed answers (`TrustState`), which the next process verifies again: by
editing them trust can be lost, not gained. The rest, above all the mark, is sealed with a MAC bound to the licence's
text; a state whose seal is broken counts as none. What this cannot prevent is that somebody who rules the whole machine
sets its clock back *and* puts back an old state while licensing is stopped.
"""

import hashlib
import hmac
from dataclasses import dataclass, replace

from licensing.license import KeySet, License, Verdict, read_verdict
from wire.entries import LicenseState, TrustRecord, pack_trust_unsealed
from wire.errors import Unreachable

#: After a check-in that failed: the first pause, doubled each time up to the last one, in seconds.
FIRST_RETRY_S = 2.0
LAST_RETRY_S = 300.0


class Ratchet:
    """A wall clock that only goes forward, and at least as fast as a monotonic one; `mark_s` is where it was once."""

    def __init__(self, mark_s: float = 0.0) -> None:
        self._time_s = mark_s
        self._monotonic_s: float | None = None

    def time(self, wall_s: float, monotonic_s: float) -> float:
        """The time, given what both clocks say."""
        passed_s = 0.0 if self._monotonic_s is None else max(0.0, monotonic_s - self._monotonic_s)
        self._time_s = max(wall_s, self._time_s + passed_s)
        self._monotonic_s = monotonic_s
        return self._time_s

    def set(self, time_s: float) -> None:
        """Somebody who must know says that this is the time now."""
        self._time_s = time_s

    def advance(self, mark_s: float) -> None:
        """It was at least this late already."""
        self._time_s = max(self._time_s, mark_s)


@dataclass(frozen=True)
class TrustState:
    """Where a licence stands. Two verdicts at most: the last one that passed, and a refusal since then."""

    passed: Verdict | None = None
    refused: Verdict | None = None
    missed: bool = False
    tries: int = 0
    next_s: float = 0.0
    mark_s: float = 0.0
    serial: int = 0


@dataclass(frozen=True)
class Standing:
    """What others are told. Unix seconds, None where there is nothing to tell; `reason` for all but CONNECTED."""

    state: LicenseState
    last_success_s: float | None
    trust_until_s: float | None
    reason: str


class TrustWindow:
    """See the module. `now` is Unix seconds, from a Ratchet; `jitter`, in [0, 1), spreads the check-ins of many."""

    def __init__(self, license: License, state: TrustState | None = None) -> None:
        self.license = license
        self.state = state or TrustState()

    def status(self, now: float) -> Standing:
        """What the licence is worth now."""
        now = self._seen(now)
        last_s = self.state.passed.issued_s if self.state.passed else None
        until_s = self.trust_until_s
        if now >= self.license.expires_s:
            return Standing(LicenseState.FAILED, last_s, until_s, "the license has expired")
        if now < self.license.not_before_s:
            return Standing(LicenseState.FAILED, last_s, until_s, "the license is not valid yet")
        if self.license.checkin_url is None:
            return Standing(LicenseState.CONNECTED, None, until_s, "")
        if self.state.refused is not None:
            reason = f"the issuer refused the license: {self.state.refused.reason or 'no reason given'}"
            return Standing(LicenseState.FAILED, last_s, until_s, reason)
        if until_s is None:
            reason = (
                "the issuer has not been reached yet" if self.state.missed else "nothing was validated yet"
            )
            return Standing(LicenseState.READY, None, None, reason)
        if now >= until_s:
            return Standing(LicenseState.FAILED, last_s, until_s, "the issuer was out of reach for too long")
        if self.state.missed:
            return Standing(LicenseState.TRUST_BASED, last_s, until_s, "the issuer is out of reach")
        return Standing(LicenseState.CONNECTED, last_s, until_s, "")

    @property
    def trust_until_s(self) -> float | None:
        """When trust ends if nothing else happens; None before the first success."""
        if self.license.checkin_url is None:
            return self.license.expires_s
        if self.state.passed is None:
            return None
        return min(self.state.passed.issued_s + self.license.trust_s, self.license.expires_s)

    def next_checkin(self) -> float | None:
        """When to ask the issuer; a time that is not in the future means now, None means never."""
        if self.license.checkin_url is None:
            return None
        return self.state.next_s

    def asking(self, now: float, patience_s: float) -> None:
        """A check-in begins; who shares this state leaves the issuer alone until it has surely come to its end."""
        now = self._seen(now)
        self.state = replace(self.state, next_s=now + patience_s, serial=self.state.serial + 1)

    def checked(self, verdict: Verdict, now: float, jitter: float) -> None:
        """The issuer answered."""
        now = self._seen(now)
        if verdict.passed:
            now = verdict.issued_s
        self.state = TrustState(
            passed=verdict if verdict.passed else self.state.passed,
            refused=None if verdict.passed else verdict,
            next_s=now + self.license.checkin_s * (0.9 + 0.2 * jitter),
            mark_s=now,
            serial=self.state.serial + 1,
        )

    def unreachable(self, now: float, jitter: float) -> None:
        """There was no answer that counts."""
        now = self._seen(now)
        pause_s = min(FIRST_RETRY_S * 2 ** min(self.state.tries, 30), LAST_RETRY_S, self.license.checkin_s)
        self.state = replace(
            self.state,
            missed=True,
            tries=self.state.tries + 1,
            next_s=now + pause_s * (0.5 + 0.5 * jitter),
            serial=self.state.serial + 1,
        )

    def _seen(self, now: float) -> float:
        self.state = replace(self.state, mark_s=max(now, self.state.mark_s))
        return self.state.mark_s


# ---------------------------------------------------------------------------------------------------------------------
# over a restart


def seal(license: License, state: TrustState) -> TrustRecord:
    """The state as it is kept in Redis."""
    record = TrustRecord(
        license=license.id,
        serial=state.serial,
        passed=state.passed.token if state.passed else "",
        refused=state.refused.token if state.refused else "",
        missed=state.missed,
        tries=state.tries,
        next_ms=round(state.next_s * 1000),
        mark_ms=round(state.mark_s * 1000),
        seal=b"",
    )
    return replace(record, seal=_mac(license, record))


def unseal(license: License, keys: KeySet, record: TrustRecord) -> TrustState | None:
    """The state that was kept; None if it is another licence's, or not what was written."""
    if record.license != license.id or not hmac.compare_digest(record.seal, _mac(license, record)):
        return None
    try:
        passed = read_verdict(record.passed, keys, license, None) if record.passed else None
        refused = read_verdict(record.refused, keys, license, None) if record.refused else None
    except Unreachable:
        return None
    if (passed and not passed.passed) or (refused and refused.passed):
        return None
    return TrustState(
        passed,
        refused,
        record.missed,
        record.tries,
        record.next_ms / 1000,
        record.mark_ms / 1000,
        record.serial,
    )


def _mac(license: License, record: TrustRecord) -> bytes:
    key = hashlib.sha256(b"steno trust " + license.digest).digest()  # not to be had from Redis
    return hmac.digest(key, pack_trust_unsealed(replace(record, seal=b"")), "sha256")
