"""`console.overview`: what the pages get."""

import json

from console import overview
from wire.accounts import Waiting
from wire.archive import Listed
from wire.census import Present
from wire.entries import Billing, Event, LicenseState, LicenseStatus, Offer, SessionEvent, WorkerLoad
from wire.params import SessionParams
from wire.recorded import OFFER_RECORDED, PLAIN, SessionEnd, SessionFacts


def offer(name: str, **params) -> Offer:
    return Offer(name, "node", "english", SessionParams(**params).for_worker())


def test_a_pool_is_the_sum_of_its_workers():
    loads = {"b": WorkerLoad(4, 1, 20, 9, "m"), "a": WorkerLoad(2, 2, 90, 9, "n", "MIT")}
    told = overview.pool("english", loads, 3)
    assert (told["slots"], told["used"], told["waiting"], told["backlog_ms"]) == (6, 3, 3, 90)
    assert told["models"] == ["m", "n"]
    assert [worker["worker"] for worker in told["workers"]] == ["a", "b"]
    assert "universal-streaming-english" in told["speech_models"]
    assert overview.pool("u3pro", {}, 0)["slots"] == 0


def test_every_state_of_a_licence_has_its_words():
    for state in LicenseState:
        told = overview.license_state(LicenseStatus(state, "id", Billing.USAGE, ("*",), 0, -1, 7, 8))
        assert told["state"] in ("Ready", "Connected", "TrustBased", "Failed")
        assert told["meaning"]
        assert (told["max_sessions"], told["last_checkin_ms"], told["trust_until_ms"]) == (None, None, 7)
    refused = LicenseStatus(LicenseState.FAILED, "id", Billing.FLAT, ("*",), 3, 1, 2, 3, "not paid")
    assert overview.license_state(refused)["meaning"] == "not paid"
    assert overview.license_state(None)["state"] == "Silent"


def test_usage_is_told_in_whole_seconds():
    assert overview.usage(Waiting(3, 4.6)) == {"waiting": 3, "oldest_s": 5}


def test_sessions_come_newest_first():
    rows = overview.live([Present(offer("a"), 5), Present(offer("b"), 9, "w", 2), Present(offer("c"), 7)])
    assert [row["session"] for row in rows] == ["b", "c", "a"]
    assert rows[0]["model"] == "universal-streaming-english"
    assert (rows[0]["worker"], rows[0]["takes"]) == ("w", 2)
    assert not any(row["recorded"] for row in rows)
    offered = Offer("d", "node", "english", {OFFER_RECORDED: PLAIN})
    assert overview.live([Present(offered, 5)])[0]["recorded"]
    assert overview.session(offered, 1)["recorded"]


def test_a_session_shows_what_was_asked_but_no_webhook_and_no_prompt():
    secret = {
        "webhook_url": "https://hooks.example/x",
        "webhook_auth_header_name": "X-Key",
        "webhook_auth_header_value": "secret",
    }
    told = overview.session(offer("a", keyterms_prompt=("Ada",), **secret), 2)
    assert told["params"]["keyterms_prompt"] == ["Ada"]
    assert told["generation"] == 2
    assert "language_codes" not in told["params"]  # not set
    assert "secret" not in json.dumps(told)
    assert "hooks.example" not in json.dumps(told)


def test_recordings_come_newest_first_and_tell_what_is_wrong_with_them():
    facts = SessionFacts("b", 9.0, "english", key="alice", why="key")
    listed = [
        Listed("a", 5.0, 10, 60.4, sealed=True, fault="it is encrypted"),
        Listed("b", 9.0, 30, 99.0, sealed=False, cut=True, facts=facts, end=SessionEnd(10.0, "ended", 900)),
    ]
    told = overview.recordings(listed)
    assert (told["count"], told["bytes"]) == (2, 40)
    newest, oldest = told["recordings"]
    assert (newest["session"], newest["key"], newest["outcome"], newest["cut"]) == (
        "b",
        "alice",
        "ended",
        True,
    )
    assert (oldest["fault"], oldest["sealed"], oldest["audio_ms"], oldest["left_s"]) == (
        "it is encrypted",
        True,
        None,
        60,
    )


def test_events_are_told_as_they_went_out():
    [told] = overview.events([SessionEvent("a", 1, 2, Event.MESSAGE, 900, 0, True, '{"type":"Turn"}')])
    assert told == {
        "event": "MESSAGE",
        "generation": 1,
        "audio_ms": 900,
        "turn_order": 0,
        "final": True,
        "text": '{"type":"Turn"}',
    }
