"""What the tracker is told, against the real one behind a server with switches."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vendors import FAULTS, Vendor
from usage.batch import Batch, Batcher, Rules
from usage.report import Tracker, described
from usage.tracker import Tracker as ReferenceTracker
from wire.entries import UsageRecord
from wire.errors import SettingsError, Unreachable
from wire.outbound import ALLOWED

RECORD = UsageRecord("s", 3, 1500, 1600, "english", "moonshine", 1_700_000_000_000, -1)


def batch(*records: UsageRecord) -> Batch:
    batcher = Batcher(Rules())
    for number, record in enumerate(records or (RECORD,)):
        batcher.add(b"%d" % number, record, 0.0)
    made = batcher.take(0.0)
    assert made is not None
    return made


@pytest.fixture
def reference(tmp_path: Path) -> ReferenceTracker:
    return ReferenceTracker(tmp_path / "book", ["hunter2"])


@pytest.fixture
def vendor(reference) -> Iterator[Vendor]:
    with Vendor(reference.respond) as server:
        yield server


@pytest.fixture
def tracker(vendor) -> Tracker:
    return Tracker(vendor.url, "hunter2", 5.0)


def test_a_batch_is_counted(run, tracker, reference):
    run(tracker.register("license"))
    run(tracker.deliver("license", batch()))
    [total] = reference.totals()
    assert (total.license, total.audio_ms, total.pool) == ("license", 1500, "english")


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "replay"])
def test_no_clear_answer_is_a_failure(run, tracker, vendor, reference, fault: str):
    quick = Tracker(vendor.url, "hunter2", 0.3)
    vendor.fault = fault
    with pytest.raises(Unreachable):
        run(quick.deliver("license", batch()))
    with pytest.raises(Unreachable):
        run(quick.register("license"))
    vendor.fault = ""
    run(tracker.deliver("license", batch()))
    assert [total.audio_ms for total in reference.totals()] == [1500]


def test_an_answer_about_another_batch_is_none(run, tracker, vendor):
    run(tracker.deliver("license", batch()))
    vendor.fault = "replay"
    other = UsageRecord("t", 1, 1, 1, "english", "m", 1, 2)
    with pytest.raises(Unreachable, match="this batch"):
        run(tracker.deliver("license", batch(other)))


def test_a_key_that_is_refused_is_the_operator_s_to_mend(run, vendor):
    stranger = Tracker(vendor.url, "wrong", 5.0)
    with pytest.raises(SettingsError, match=r"USAGE_TRACKING_API_KEY.*401"):
        run(stranger.register("license"))
    with pytest.raises(Unreachable, match="401"):
        run(stranger.deliver("license", batch()))


@pytest.mark.parametrize(
    "url,key,reason",
    [
        ("https://tracker.example", "", "USAGE_TRACKING_API_KEY is not set"),
        ("https://tracker.example", "two words", "no key has"),
        ("https://tracker.example", "kéy", "no key has"),
        ("https://tracker.example", "x\r\nEvil: 1", "no key has"),
        ("", "key", "USAGE_TRACKER_URL is not set"),
        ("http://tracker.example", "key", "not encrypted"),
        ("tracker.example", "key", "not the address"),
    ],
)
def test_what_cannot_work_is_said_before_it_is_tried(url: str, key: str, reason: str):
    with pytest.raises(SettingsError, match=reason) as error:
        Tracker(url, key, 5.0)
    assert not key or key not in str(error.value)


def test_nothing_but_the_listed_fields_is_sent(run, tracker, vendor):
    run(tracker.register("license"))
    run(tracker.deliver("license", batch(RECORD, UsageRecord("t", 1, 1, 1, "english", "m", 1, 2))))
    for seen in vendor.seen:
        allowed = ALLOWED[seen.path]
        assert set(seen.body) == set(allowed)
        for record in seen.body.get("records", []):
            assert set(record) == set(allowed["records"] or ())
        assert set(seen.headers) == {
            "host",
            "user-agent",
            "accept",
            "accept-encoding",
            "connection",
            "content-type",
            "content-length",
            "authorization",
        }
        assert "hunter2" not in json.dumps(seen.body)


def test_a_session_that_runs_has_no_end():
    assert described(RECORD)["ended_ms"] is None
    assert described(UsageRecord("t", 1, 1, 1, "e", "m", 1, 0))["ended_ms"] == 0
