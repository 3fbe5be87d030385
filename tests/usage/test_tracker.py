"""The reference tracker: each record counted once, all of a batch or nothing, totals by licence, day and pool."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from usage.report import described
from usage.tracker import MAX_RECORDS, Total, Tracker, as_csv
from wire.entries import MAX_SESSION_MS, UsageRecord
from wire.errors import SettingsError
from wire.web import Ask

DAY_MS = 86_400_000
numbers = itertools.count()


def record(
    session: str = "s", lap: int = 1, audio_ms: int = 1000, over: bool = False, **other: Any
) -> dict[str, Any]:
    given = {"pool": "english", "model": "m", "started_ms": 20_000 * DAY_MS, **other}
    ended_ms = given["started_ms"] + audio_ms if over else -1
    return described(UsageRecord(session, lap, audio_ms, audio_ms + 5, ended_ms=ended_ms, **given))


@pytest.fixture
def tracker(tmp_path: Path) -> Tracker:
    return Tracker(tmp_path / "book", ["key", " other "])


def report(tracker: Tracker, *records: dict[str, Any], license: str = "l", batch: str = "", key: str = "key"):
    body = {"license": license, "batch": batch or f"batch-{next(numbers)}", "records": list(records)}
    return tracker.respond(Ask("POST", "/v1/usage", body, key))


def audio_ms(tracker: Tracker) -> int:
    return sum(total.audio_ms for total in tracker.totals())


def test_a_session_counts_as_its_newest_lap(tracker):
    report(tracker, record(lap=1, audio_ms=1000))
    report(tracker, record(lap=3, audio_ms=3000), record("t", 1, 500))
    report(tracker, record(lap=2, audio_ms=2000))
    assert audio_ms(tracker) == 3500


def test_a_batch_counts_once_and_so_does_a_record_in_another_batch(tracker):
    first = report(tracker, record(), batch="b")
    again = report(tracker, record(), batch="b")
    assert (first.status, first.body["again"], again.status, again.body["again"]) == (200, False, 200, True)
    report(tracker, record(), batch="c")
    assert audio_ms(tracker) == 1000


def test_an_end_counts_and_a_session_that_went_on_after_it_counts_on(tracker):
    report(tracker, record(lap=1), record(lap=1, over=True))
    assert [total.over for total in tracker.totals()] == [1]
    report(tracker, record(lap=1))
    assert [total.over for total in tracker.totals()] == [1]
    report(tracker, record(lap=2, audio_ms=2000))
    assert [(total.over, total.audio_ms) for total in tracker.totals()] == [(0, 2000)]


def test_totals_are_by_licence_day_and_pool(tracker):
    report(tracker, record("a"), record("b", pool="u3pro"), record("c", started_ms=20_001 * DAY_MS - 1))
    report(tracker, record("d", started_ms=20_001 * DAY_MS))
    report(tracker, record("a"), license="other")
    found = tracker.totals()
    assert found == [
        Total("l", "2024-10-04", "english", 2, 2000, 2010, 0),
        Total("l", "2024-10-04", "u3pro", 1, 1000, 1005, 0),
        Total("l", "2024-10-05", "english", 1, 1000, 1005, 0),
        Total("other", "2024-10-04", "english", 1, 1000, 1005, 0),
    ]
    text = tracker.respond(Ask("GET", "/v1/totals.csv", api_key="key")).body
    assert text == as_csv(found)
    assert text.splitlines()[:2] == [
        "license,day,pool,sessions,audio_ms,session_ms,over",
        "l,2024-10-04,english,2,2000,2010,0",
    ]


def test_what_was_counted_is_counted_after_a_restart(tracker, tmp_path):
    report(tracker, record(), batch="b")
    again = Tracker(tmp_path / "book", ["key"])
    assert report(again, record(lap=9, audio_ms=9999), batch="b").body["again"] is True
    assert audio_ms(again) == 1000


@pytest.mark.parametrize("key,status", [("key", 200), ("other", 200), ("", 401), ("ke", 401), ("kéy", 401)])
def test_a_key_is_asked_for(tracker, key: str, status: int):
    assert report(tracker, record(), key=key).status == status
    assert tracker.respond(Ask("POST", "/v1/register", {"license": "l"}, key)).status == status
    assert tracker.respond(Ask("GET", "/v1/totals.csv", api_key=key)).status == status
    assert tracker.respond(Ask("GET", "/health")).status == 200


@pytest.mark.parametrize("keys", [[], [""], ["  "]])
def test_a_tracker_without_keys_does_not_start(tmp_path, keys):
    with pytest.raises(SettingsError, match="TRACKER_API_KEYS"):
        Tracker(tmp_path / "book", keys)


def test_a_file_that_is_no_book(tmp_path: Path):
    (tmp_path / "book").write_text("not a database, but long enough to be taken for one" * 100)
    with pytest.raises(SettingsError, match="TRACKER_BOOK"):
        Tracker(tmp_path / "book", ["key"])


@pytest.mark.parametrize(
    "changed",
    [
        {"audio_ms": -1},
        {"audio_ms": MAX_SESSION_MS + 1},
        {"audio_ms": 1.5},
        {"audio_ms": True},
        {"audio_ms": "1"},
        {"lap": None},
        {"started_ms": 10**18},
        {"ended_ms": "never"},
        {"session": ""},
        {"session": "x" * 201},
        {"pool": 5},
        {"transcript": "hello"},
    ],
)
def test_one_bad_record_and_none_is_counted(tracker, changed):
    assert report(tracker, record("good"), {**record(), **changed}).status == 400
    assert tracker.totals() == []


def test_a_missing_field_or_too_many_records(tracker):
    short = record()
    del short["pool"]
    assert report(tracker, short).status == 400
    assert report(tracker, *[record()] * (MAX_RECORDS + 1)).status == 400
    assert report(tracker, *[record()] * MAX_RECORDS).status == 200


@pytest.mark.parametrize(
    "path,body",
    [
        ("/v1/usage", {}),
        ("/v1/usage", {"license": "l", "batch": "", "records": []}),
        ("/v1/usage", {"license": "l", "batch": "b", "records": {}}),
        ("/v1/register", {"license": 5}),
        ("/v1/register", {}),
    ],
)
def test_what_cannot_be_understood(tracker, path, body):
    assert tracker.respond(Ask("POST", path, body, "key")).status == 400


def test_unknown_paths(tracker):
    assert tracker.respond(Ask("POST", "/", {}, "key")).status == 404
    assert tracker.respond(Ask("GET", "/v1/usage", {}, "key")).status == 404


laps = st.tuples(st.sampled_from("ab"), st.integers(0, 6), st.booleans())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(st.lists(laps, max_size=5), max_size=8), st.randoms(use_true_random=False))
def test_any_order_and_any_repetition_come_to_the_same(tmp_path_factory, batches, random):
    def records(batch):
        return [record(session, lap, 1000 * (lap + 1), over) for session, lap, over in batch]

    totals = []
    for shuffled in (False, True):
        tracker = Tracker(tmp_path_factory.mktemp("book") / "book", ["key"])
        sent = list(enumerate(batches)) * (1 + shuffled)
        if shuffled:
            random.shuffle(sent)
        for number, batch in sent:
            report(tracker, *records(batch), batch=str(number))
        totals.append(tracker.totals())
    assert totals[0] == totals[1]
