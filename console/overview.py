"""What is known of the stack, as the pages get it: JSON out of what Redis and the services told.

Times are Unix milliseconds, and None where there is none.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wire.accounts import Waiting
from wire.archive import Listed
from wire.census import Present
from wire.entries import Billing, LicenseState, LicenseStatus, Offer, SessionEvent, WorkerLoad
from wire.recorded import OFFER_RECORDED
from wire.speech_models import MODELS

#: Most recordings that are named, the newest.
MOST_RECORDINGS = 500

#: The states of a licence, and what each means for whoever runs the stack.
LICENSE: Mapping[LicenseState, tuple[str, str]] = {
    LicenseState.READY: ("Ready", "Nothing was validated yet: nobody is admitted."),
    LicenseState.CONNECTED: ("Connected", "The last check passed."),
    LicenseState.TRUST_BASED: ("TrustBased", "The last check failed; trust still holds."),
    LicenseState.FAILED: ("Failed", "No right to run: sessions are ended."),
}
#: Parameters of a session that the pages show, if they were set; never where a webhook goes.
SHOWN = (
    "language_codes",
    "format_turns",
    "min_turn_silence",
    "max_turn_silence",
    "vad_threshold",
    "end_of_turn_confidence_threshold",
    "mode",
    "keyterms_prompt",
    "filter_profanity",
)


def pool(name: str, loads: Mapping[str, WorkerLoad], waiting: int) -> dict[str, Any]:
    """One pool: what it serves and holds. `backlog_ms` is the worst session's of any worker."""
    told = list(loads.values())
    return {
        "pool": name,
        "speech_models": [model for model, facts in MODELS.items() if facts.pool == name],
        "models": sorted({load.model for load in told if load.model}),
        "slots": sum(load.slots for load in told),
        "used": sum(load.slots - load.free for load in told),
        "waiting": waiting,
        "backlog_ms": max((load.backlog_ms for load in told), default=0),
        "workers": [
            {
                "worker": worker,
                "slots": load.slots,
                "used": load.slots - load.free,
                "backlog_ms": load.backlog_ms,
            }
            for worker, load in sorted(loads.items())
        ],
    }


def license_state(status: LicenseStatus | None) -> dict[str, Any]:
    """What the licence is worth. `state` Silent: licensing has told nothing for a while."""
    if status is None:
        return {"state": "Silent", "meaning": "No licensing service is running, or it cannot reach Redis."}
    state, meaning = LICENSE[status.state]
    return {
        "state": state,
        "meaning": status.reason or meaning,
        "license": status.license,
        "billing": "usage" if status.billing is Billing.USAGE else "flat",
        "pools": list(status.pools),
        "max_sessions": status.max_sessions or None,
        "last_checkin_ms": _time(status.last_checkin_ms),
        "trust_until_ms": _time(status.trust_until_ms),
    }


def usage(waiting: Waiting) -> dict[str, Any]:
    """Records that no tracker has counted yet."""
    return {"waiting": waiting.count, "oldest_s": round(waiting.oldest_s)}


def live(present: Iterable[Present]) -> list[dict[str, Any]]:
    """Open sessions, newest first."""
    rows = [
        {
            "session": one.offer.session,
            "pool": one.offer.pool,
            "model": one.offer.params.get("speech_model", ""),
            "since_ms": one.offered_ms,
            "worker": one.worker,
            "takes": one.takes,
            "recorded": bool(one.offer.params.get(OFFER_RECORDED)),
        }
        for one in present
    ]
    return sorted(rows, key=lambda row: -int(row["since_ms"]))


def session(offer: Offer, generation: int) -> dict[str, Any]:
    """The facts of one open session."""
    params = {name: offer.params[name] for name in SHOWN if offer.params.get(name) not in (None, [], "")}
    return {
        "session": offer.session,
        "pool": offer.pool,
        "model": offer.params.get("speech_model", ""),
        "generation": generation,
        "recorded": bool(offer.params.get(OFFER_RECORDED)),
        "params": params,
    }


def events(told: Sequence[SessionEvent]) -> list[dict[str, Any]]:
    """A session's events: `text` is the message to the client as it went out."""
    return [
        {
            "event": event.event.name,
            "generation": event.generation,
            "audio_ms": event.audio_ms,
            "turn_order": event.turn_order,
            "final": event.final,
            "text": event.text,
        }
        for event in told
    ]


def recordings(listed: Sequence[Listed]) -> dict[str, Any]:
    """What there is to look at, newest first, at most MOST_RECORDINGS; how many and how large all are."""
    newest = sorted(listed, key=lambda one: -one.started_s)[:MOST_RECORDINGS]
    return {
        "count": len(listed),
        "bytes": sum(one.size for one in listed),
        "recordings": [_recording(one) for one in newest],
    }


def _recording(one: Listed) -> dict[str, Any]:
    facts, end = one.facts, one.end
    return {
        "session": one.id,
        "since_ms": round(one.started_s * 1000),
        "bytes": one.size,
        "left_s": round(one.left_s),
        "sealed": one.sealed,
        "cut": one.cut,
        "fault": one.fault,
        "pool": facts.pool if facts else "",
        "key": facts.key if facts else "",
        "why": facts.why if facts else "",
        "outcome": end.outcome if end else "",
        "audio_ms": end.audio_ms if end else None,
    }


def _time(at_ms: int) -> int | None:
    return at_ms if at_ms >= 0 else None
