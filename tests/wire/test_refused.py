"""`wire.refused`: what another version wrote is counted each time, and told once."""

import logging
from collections.abc import Iterator

import pytest

from wire import metrics
from wire import refused as module
from wire.errors import EntryError
from wire.refused import MOST_REASONS, refused


@pytest.fixture(autouse=True)
def nothing_told() -> Iterator[None]:
    before = set(module._told)
    module._told.clear()
    yield
    module._told.clear()
    module._told.update(before)


def counted() -> float:
    return metrics.REGISTRY.get_sample_value("steno_entries_refused_total") or 0.0


def test_each_is_counted_and_each_reason_told_once(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    before = counted()
    for _ in range(3):
        refused("offer", EntryError("entry of version 2, expected 1"))
    refused("load", KeyError(b"e"))
    assert counted() - before == 4
    told = [(record.entry, record.reason) for record in caplog.records]  # type: ignore[attr-defined]
    assert told == [("offer", "EntryError: entry of version 2, expected 1"), ("load", "KeyError: b'e'")]


def test_no_more_than_so_many_reasons_are_told(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    for number in range(MOST_REASONS + 10):
        refused("event", EntryError(str(number)))
    assert len(caplog.records) == MOST_REASONS
