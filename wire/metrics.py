"""Every metric of the stack: name, unit, labels and buckets, declared here and nowhere else.

Only edges observe metrics. Values live in `REGISTRY`, not in the client library's global one, so that a process shows
its own numbers and nothing a dependency registered. Every name begins with `steno_`; seconds are wall time unless the
line says audio.
"""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a birth date beside every series would double the page

#: What `/metrics` shows (`wire/service.py`).
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)  # memory, processor time, open files (Linux only)

# Bounds in seconds. The first is for round trips to Redis and the like, the second for work on a model, the third
# holds the lengths of models' chunks, the fourth is for what a person who speaks has to wait.
_ROUND_TRIP_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
_COMPUTE_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.2, 0.4, 0.8, 2)
_LAG_S = (
    0.01,
    0.02,
    0.03,
    0.04,
    0.06,
    0.08,
    0.1,
    0.13,
    0.16,
    0.2,
    0.24,
    0.32,
    0.4,
    0.56,
    0.8,
    1.12,
    1.5,
    2,
    4,
)
_WAIT_S = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10)


def _counter(name: str, meaning: str, *labels: str) -> Counter:
    return Counter(f"steno_{name}", meaning, labels, registry=REGISTRY)


def _gauge(name: str, meaning: str, *labels: str) -> Gauge:
    return Gauge(f"steno_{name}", meaning, labels, registry=REGISTRY)


def _histogram(name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
    return Histogram(f"steno_{name}", meaning, labels, buckets=buckets, registry=REGISTRY)


# ---------------------------------------------------------------------------------------------------------------------
# ingress

SESSIONS_OPEN = _gauge("sessions_open", "Client sessions connected now.")
SESSIONS_TOTAL = _counter("sessions_total", "Sessions that have ended, by how.", "outcome")
SESSIONS_MOVED = _counter("sessions_moved_total", "Sessions that have come from another ingress node.")
AUDIO_SECONDS = _counter("audio_seconds_total", "Audio received from clients, in seconds of audio.")
APPEND_SECONDS = _histogram(
    "append_seconds", "Time of one append of all sessions' audio to Redis.", _ROUND_TRIP_S
)
BEGIN_SECONDS = _histogram("begin_seconds", "Time from a client's connection to its Begin.", _WAIT_S)
EVENTS_TOTAL = _counter("events_total", "Events received from workers, by kind.", "kind")
EVENTS_DROPPED = _counter(
    "events_dropped_total", "Events from workers that were not passed on, by reason.", "reason"
)
CLIENT_ERRORS = _counter("client_errors_total", "Error messages sent to clients, by error code.", "code")
PENDING_BYTES = _gauge(
    "pending_bytes", "Audio received from clients and not yet appended to Redis, in bytes."
)
HELD_BYTES = _gauge(
    "held_bytes",
    "Audio held since the sessions' last checkpoints, to be written again if Redis loses it, in bytes.",
)
SESSIONS_RESTORED = _counter(
    "sessions_restored_total",
    "Sessions written anew after Redis had lost something of them; gone: too much of it was not held any more.",
    "outcome",
)
WEBHOOKS_PENDING = _gauge("webhooks_pending", "Webhooks that wait to be delivered or are under way.")
WEBHOOKS_TOTAL = _counter("webhooks_total", "Webhooks that have come to an end, by how.", "outcome")

TASKS = _gauge("tasks", "Tasks of the event loop: some for the node, one for each session and close.")

# ---------------------------------------------------------------------------------------------------------------------
# workers

OFFERS_WAITING = _gauge("offers_waiting", "Sessions that wait for a worker of the pool.", "pool")
SLOTS = _gauge("slots", "Sessions this worker can hold.", "pool")
SLOTS_USED = _gauge("slots_used", "Sessions this worker holds now.", "pool")
OVERLOADED = _gauge(
    "overloaded", "1 while this worker has too much to do and takes no new sessions (OVERLOAD_S).", "pool"
)
STEP_SECONDS = _histogram(
    "step_seconds", "Time of one step of the model, by number of active slots.", _COMPUTE_S, "occupancy"
)
NEWS_LAG_SECONDS = _histogram(
    "news_lag_seconds",
    "Time from the last reading without a step's newest audio to what the model told of it.",
    _LAG_S,
)
STATE_BYTES = _gauge("state_bytes", "Memory of one session's state in the model, in bytes; 0: it keeps none.")
BACKLOG_SECONDS = _gauge(
    "backlog_seconds",
    "Audio appended and not yet stepped, worst session that is no replay, in seconds of audio.",
)
PARTIALS_TOTAL = _counter("partials_total", "Partial turns published.")
FINALS_TOTAL = _counter("finals_total", "Final turns published.")
END_OF_TURN_DELAY_SECONDS = _histogram(
    "end_of_turn_delay_seconds", "Time from the endpoint decision to the publication of its final.", _WAIT_S
)
FIRST_PARTIAL_SECONDS = _histogram(
    "first_partial_seconds",
    "Audio from the onset of a turn's speech to its first partial, in seconds.",
    _WAIT_S,
)
LEASES_TAKEN = _counter("leases_taken_total", "Sessions taken by this worker, takeovers included.")
LEASES_LOST = _counter("leases_lost_total", "Sessions that another worker took from this one.")

# ---------------------------------------------------------------------------------------------------------------------
# licensing

LICENSE_STATE = _gauge("license_state", "1 for the state of the licence, 0 for the other states.", "state")
LICENSE_CHANGES = _counter(
    "license_changes_total", "Changes of the licence's state, by the new one.", "state"
)
LICENSE_TRUST_SECONDS = _gauge(
    "license_trust_seconds", "Time until the trust in the licence ends, in seconds; negative once it has."
)
LICENSE_CHECKINS = _counter("license_checkins_total", "Check-ins with the issuer, by outcome.", "outcome")
LICENSE_REFUSALS = _counter(
    "license_refusals_total", "Sessions refused for the licence's sake, by reason.", "reason"
)

# ---------------------------------------------------------------------------------------------------------------------
# usage

USAGE_WAITING = _gauge("usage_waiting", "Usage records that the tracker has not counted yet.")
USAGE_OLDEST_SECONDS = _gauge(
    "usage_oldest_seconds", "Age of the oldest usage record that the tracker has not counted yet, in seconds."
)
USAGE_REPORTED = _counter("usage_reported_total", "Usage records that the tracker has counted.")
USAGE_FAILURES = _counter("usage_failures_total", "Batches of usage records that the tracker did not take.")
USAGE_ORPHANS = _counter("usage_orphans_total", "Sessions closed out because their ingress fell silent.")

# ---------------------------------------------------------------------------------------------------------------------
# recordings

RECORDED_SESSIONS = _counter("recorded_sessions_total", "Sessions recorded, by why they are.", "why")
RECORDED_BYTES = _counter("recorded_bytes_total", "Bytes written to recordings.")
RECORDING_MISSED = _counter("recording_missed_total", "Items of recordings that could not be written.")
RECORDINGS_BYTES = _gauge("recordings_bytes", "Bytes of all recordings in Redis.")
REPLAYS_ENDED = _counter("replays_ended_total", "Replays that gave way to other sessions.")

# ---------------------------------------------------------------------------------------------------------------------
# both

ENTRIES_REFUSED = _counter("entries_refused_total", "Redis entries that could not be read and were skipped.")
REDIS_ERRORS = _counter("redis_errors_total", "Redis operations that failed, by operation.", "operation")


def occupancy(active: int) -> str:
    """The `occupancy` label for a step over `active` slots: "0", "1", "2", then "3-4", "5-8" and so on, doubling."""
    if active <= 2:
        return str(active)
    top = 1 << (active - 1).bit_length()
    return f"{top // 2 + 1}-{top}"
