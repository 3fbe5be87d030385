"""The vendor's side: counts each record once, and tells totals. A reference server, and the tests' partner.

A session has one line in the book, its newest lap; an older one, or the same again, changes nothing, whatever batch
brings it and however often. An answer is given when the line is on the disk. A session belongs to the day (UTC) on
which it started.
"""

import contextlib
import csv
import hmac
import io
import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import astuple, dataclass, fields
from http import HTTPStatus
from pathlib import Path
from typing import Any

from usage.report import REGISTER_PATH, USAGE_PATH
from wire.entries import LAST_MS, MAX_NAME, MAX_SESSION_MS
from wire.errors import SettingsError
from wire.web import Ask, Tell

logger = logging.getLogger(__name__)

#: Most records of a batch.
MAX_RECORDS = 2000

_SCHEMA = """
create table if not exists sessions (
    license text, session text, lap integer, over integer, audio_ms integer, session_ms integer, pool text, model text,
    started_ms integer, ended_ms integer, primary key (license, session)
) without rowid;
create table if not exists batches (license text, batch text, at_s real, primary key (license, batch)) without rowid;
create table if not exists stacks (license text primary key, registered_s real) without rowid;
"""
_COUNT = """
insert into sessions values (:license, :session, :lap, :over, :audio_ms, :session_ms, :pool, :model, :started_ms,
    :ended_ms)
on conflict do update set lap = :lap, over = :over, audio_ms = :audio_ms, session_ms = :session_ms, pool = :pool,
    model = :model, started_ms = :started_ms, ended_ms = :ended_ms
where (:lap, :over) > (lap, over)
"""
_TOTALS = """
select license, date(started_ms / 1000, 'unixepoch') as day, pool, count(*), sum(audio_ms), sum(session_ms), sum(over)
from sessions group by license, day, pool order by license, day, pool
"""

_WHOLE = {"lap": LAST_MS, "audio_ms": MAX_SESSION_MS, "session_ms": MAX_SESSION_MS, "started_ms": LAST_MS}
_TEXTS = ("session", "pool", "model")


@dataclass(frozen=True)
class Total:
    """What was used under a licence on a day in a pool. `over` of the sessions have ended."""

    license: str
    day: str
    pool: str
    sessions: int
    audio_ms: int
    session_ms: int
    over: int


class Tracker:
    """The book, in a file of SQLite. Safe to call from threads and from several processes."""

    def __init__(self, book: Path, api_keys: Collection[str], clock: Callable[[], float] = time.time) -> None:
        """Raises SettingsError if the book cannot be used, or nobody could report."""
        self._api_keys = [key.strip().encode() for key in api_keys if key.strip()]
        if not self._api_keys:
            raise SettingsError("TRACKER_API_KEYS is not set; nobody could report anything")
        self._book = book
        self._clock = clock
        try:
            with self._open() as book_now:
                book_now.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise SettingsError(f"TRACKER_BOOK: {book} cannot be used: {error}") from None

    def respond(self, ask: Ask) -> Tell:
        """What the web server answers."""
        if (ask.method, ask.path) == ("GET", "/health"):
            return Tell(HTTPStatus.OK, {"status": "ready", "service": "tracker"})
        if not any(hmac.compare_digest(ask.api_key.encode(), key) for key in self._api_keys):
            return Tell(HTTPStatus.UNAUTHORIZED, {"error": "the API key is not known here"})
        match ask.method, ask.path:
            case "POST", path if path == REGISTER_PATH:
                return self._register(ask.body)
            case "POST", path if path == USAGE_PATH:
                return self._usage(ask.body)
            case "GET", "/v1/totals.csv":
                return Tell(HTTPStatus.OK, as_csv(self.totals()), "text/csv")
            case _:
                return Tell(HTTPStatus.NOT_FOUND, {"error": "not found"})

    def totals(self) -> list[Total]:
        """Everything counted so far, by licence, day and pool."""
        with self._open() as book:
            return [Total(*row) for row in book.execute(_TOTALS)]

    def _register(self, body: Mapping[str, Any]) -> Tell:
        license_id = body.get("license")
        if not _is_text(license_id):
            return Tell(HTTPStatus.BAD_REQUEST, {"error": "license is a text"})
        with self._open() as book:
            book.execute("insert or replace into stacks values (?, ?)", (license_id, self._clock()))
        logger.info("Stack registered", extra={"license": license_id})
        return Tell(HTTPStatus.OK, {"registered": license_id})

    def _usage(self, body: Mapping[str, Any]) -> Tell:
        license_id, batch, records = body.get("license"), body.get("batch"), body.get("records")
        if not _is_text(license_id) or not _is_text(batch) or not isinstance(records, list):
            return Tell(HTTPStatus.BAD_REQUEST, {"error": "license and batch are texts, records a list"})
        if len(records) > MAX_RECORDS or not all(_is_record(record) for record in records):
            return Tell(HTTPStatus.BAD_REQUEST, {"error": "a record that cannot be counted; none was"})
        rows = [
            {**record, "license": license_id, "over": record["ended_ms"] is not None} for record in records
        ]
        with self._open() as book:
            known = book.execute(
                "insert or ignore into batches values (?, ?, ?)", (license_id, batch, self._clock())
            )
            again = known.rowcount == 0
            if not again:  # all or nothing: a batch that is known was counted with its name
                book.executemany(_COUNT, rows)
        told = {"license": license_id, "batch": batch, "records": len(rows), "again": again}
        logger.info("Usage counted", extra=told)
        return Tell(HTTPStatus.OK, {"batch": batch, "again": again})

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own for each use, and a transaction that is on the disk when it ends."""
        with contextlib.closing(sqlite3.connect(self._book, timeout=10)) as book, book:
            yield book


def as_csv(totals: Collection[Total]) -> str:
    """Totals as a table with a head."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(Total))
    writer.writerows(astuple(total) for total in totals)
    return text.getvalue()


def _is_record(record: Any) -> bool:
    if not isinstance(record, dict) or set(record) != {*_WHOLE, *_TEXTS, "ended_ms"}:
        return False
    ended_ms = record["ended_ms"]
    return (
        all(_is_text(record[name]) for name in _TEXTS)
        and all(_is_whole(record[name], most) for name, most in _WHOLE.items())
        and (ended_ms is None or _is_whole(ended_ms, LAST_MS))
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME


def _is_whole(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most
