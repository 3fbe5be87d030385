"""What the licence allows this node, decided: who may begin, whose usage is told, and when to stop serving.

Licensing publishes its status every second (`wire/accounts.py`); the node reads it as often and passes it on here.

    status                  new sessions                    running sessions
    Connected, TrustBased   admitted                        go on
    Ready                   refused, 3005                   go on
    Failed                  refused, 3005                   go on for the grace time, then end, and the node exits
    none (licensing away)   refused, 3005                   go on: what is not known ends nobody

A pool that is not licensed is refused with 1008, a session beyond the licensed number (counted over all nodes, in
Redis) with 3009. A failure is over with the first good status; silence does not end it.
"""

from wire.entries import ANY_POOL, Billing, LicenseState, LicenseStatus
from wire.errors import ClientError, Close, LicenseError, unauthorized

#: States in which the node serves.
_SERVING = frozenset({LicenseState.CONNECTED, LicenseState.TRUST_BASED})


class LicenseGate:
    """See the module. `now` is seconds of a clock that never goes back.

    Not `required`, it admits everybody and tracks nothing until a status comes, which it then obeys.
    """

    def __init__(self, required: bool = True, grace_s: float = 60.0) -> None:
        self._required = required
        self._grace_s = grace_s
        self._status: LicenseStatus | None = None
        self._failed_at: float | None = None

    def heard(self, status: LicenseStatus | None, now: float) -> None:
        """What licensing says now; None if it says nothing."""
        if status is not None:
            self._required = True
            if status.state is not LicenseState.FAILED:
                self._failed_at = None
            elif self._failed_at is None:
                self._failed_at = now
        self._status = status

    def refusal(self, pool: str) -> ClientError | None:
        """Why a session in `pool` may not begin; None if it may (once it has its place, if places are limited)."""
        if not self._required:
            return None
        status = self._status
        if status is None or status.state is LicenseState.READY:
            return ClientError(
                Close.SERVER_ERROR, "Session Cancelled: The server's license has not been validated"
            )
        if status.state not in _SERVING:
            return license_failed()
        if pool not in status.pools and ANY_POOL not in status.pools:
            return unauthorized(f"The license does not include the pool '{pool}'")
        return None

    @property
    def serving(self) -> bool:
        """Whether any session may begin: what a load balancer wants to know."""
        return not self._required or (self._status is not None and self._status.state in _SERVING)

    @property
    def max_sessions(self) -> int:
        """Most sessions at once over all nodes; 0 for no limit."""
        return self._status.max_sessions if self._status else 0

    @property
    def tracks_usage(self) -> bool:
        """Whether laps are to be written; as long as licensing is away, what it said last holds no more: they are."""
        if self._status is None:
            return self._required
        return self._status.billing is Billing.USAGE

    def next_deadline(self) -> float | None:
        """When the node has to stop if nothing changes."""
        return None if self._failed_at is None else self._failed_at + self._grace_s

    def check(self, now: float) -> None:
        """Raises LicenseError once a failure has lasted for the grace time: the node must end, exit code 4."""
        deadline = self.next_deadline()
        if deadline is not None and now >= deadline:
            reason = (self._status.reason if self._status else "") or "the license is not valid"
            raise LicenseError(f"stopped serving: {reason}; see /v1/status of the licensing service")


def license_failed() -> ClientError:
    """What a client is told whose session cannot begin, or cannot go on, without a licence."""
    return ClientError(Close.SERVER_ERROR, "Session Cancelled: The server's license is not valid")
