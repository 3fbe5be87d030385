"""The vendor's side: a book of licences, and signed answers to check-ins. A reference server, and the tests' partner.

Over HTTP it answers check-ins and its health, nothing else; minting and revoking are done at the vendor's desk
(`steno issuer mint | revoke | list`), on the same book, also while the server runs.
"""

import contextlib
import logging
import os
import shutil
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from licensing.checkin import PATH
from licensing.license import AUDIENCE
from licensing.minting import SigningKey, Terms, answer, mint
from wire.errors import LicenseError, SettingsError
from wire.web import Ask, Tell

logger = logging.getLogger(__name__)

#: Longest licence id and nonce that are looked at.
_MAX_TEXT = 200

_SCHEMA = """
create table if not exists licenses (
    id text primary key, customer text not null, token text not null, issued_s real not null, expires_s real not null,
    revoked text, last_checkin_s real
) without rowid
"""


@dataclass(frozen=True)
class Entry:
    """One licence in the book. `revoked` is the reason, None while it stands; times are Unix seconds."""

    id: str
    customer: str
    token: str
    issued_s: float
    expires_s: float
    revoked: str | None
    last_checkin_s: float | None


class Issuer:
    """The book in a file of SQLite, and the key. Several processes may use one book; safe to call from threads."""

    def __init__(
        self, book: Path, key: SigningKey, name: str = AUDIENCE, clock: Callable[[], float] = time.time
    ) -> None:
        """Raises SettingsError if the book cannot be used."""
        self.key = key
        self.name = name
        self._book = book
        self._clock = clock
        try:
            with self._open() as book_now:
                book_now.execute(_SCHEMA)
        except sqlite3.Error as error:
            raise SettingsError(f"ISSUER_BOOK: {book} cannot be used: {error}") from None

    def mint(self, terms: Terms) -> Entry:
        """A new licence, entered and signed."""
        now_s, license_id = self._clock(), str(uuid.uuid4())
        token = mint(self.key, self.name, license_id, terms, now_s)
        entry = Entry(license_id, terms.customer, token, now_s, now_s + terms.days * 86_400, None, None)
        with self._open() as book:
            book.execute(
                "insert into licenses values (?, ?, ?, ?, ?, ?, ?)",
                (entry.id, entry.customer, token, now_s, entry.expires_s, None, None),
            )
        return entry

    def revoke(self, license_id: str, reason: str) -> None:
        """From its next check-in on, the licence is refused. Raises LicenseError for one that is not in the book."""
        self._mark(license_id, reason or "revoked")

    def reinstate(self, license_id: str) -> None:
        """Take a revocation back. Raises LicenseError."""
        self._mark(license_id, None)

    def _mark(self, license_id: str, reason: str | None) -> None:
        with self._open() as book:
            changed = book.execute(
                "update licenses set revoked = ? where id = ?", (reason, license_id)
            ).rowcount
        if not changed:
            raise LicenseError(f"no license {license_id[:_MAX_TEXT]!r} in the book {self._book}")

    def entries(self) -> list[Entry]:
        """Every licence ever issued, oldest first."""
        with self._open() as book:
            rows = book.execute("select * from licenses order by issued_s, id").fetchall()
        return [Entry(*row) for row in rows]

    def check(self, license_id: str, nonce: str) -> str:
        """The signed answer to a check-in."""
        now_s = self._clock()
        with self._open() as book:
            row = book.execute(
                "select revoked, expires_s from licenses where id = ?", (license_id,)
            ).fetchone()
            if row:
                book.execute("update licenses set last_checkin_s = ? where id = ?", (now_s, license_id))
        if row is None:
            passed, reason = False, "there is no such license"
        elif row[0] is not None:
            passed, reason = False, row[0]
        else:
            passed, reason = now_s < row[1], "" if now_s < row[1] else "the license has expired"
        logger.info("Check-in answered", extra={"license": license_id, "passed": passed, "reason": reason})
        return answer(self.key, self.name, license_id, nonce, passed, reason, now_s)

    def respond(self, ask: Ask) -> Tell:
        """What the web server answers."""
        match ask.method, ask.path:
            case "GET", "/health":
                return Tell(HTTPStatus.OK, {"status": "ready", "service": "issuer"})
            case "POST", path if path == PATH:
                license_id, nonce = ask.body.get("license"), ask.body.get("nonce")
                if not _is_text(license_id) or not _is_text(nonce):
                    return Tell(HTTPStatus.BAD_REQUEST, {"error": "license and nonce are texts"})
                return Tell(HTTPStatus.OK, self.check(str(license_id), str(nonce)), "application/jwt")
            case _:
                return Tell(HTTPStatus.NOT_FOUND, {"error": "not found"})

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own for each use: no thread waits for another, and a commit is on the disk."""
        with contextlib.closing(sqlite3.connect(self._book, timeout=10)) as book, book:
            yield book


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_TEXT


def load_key(path: Path) -> SigningKey:
    """The private key in the file. Raises LicenseError."""
    try:
        return SigningKey.from_pem(path.read_bytes())
    except OSError as error:
        raise LicenseError(
            f"the private key {path} cannot be read ({error.strerror}); `steno license keygen` makes one"
        ) from None


def write_key(key: SigningKey, private: Path, public: Path) -> None:
    """Write a key pair; the private half for the owner only. Raises SettingsError rather than replace a file."""
    try:
        handle = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(key.pem())
        with public.open("x") as text:
            text.write(key.key_set())
    except OSError as error:
        raise SettingsError(f"{error.filename}: {error.strerror}; a key is never replaced") from None


#: The customer of a licence that a stack has minted for itself.
LOCAL_CUSTOMER = "local: minted by this machine for itself, by no vendor"


def local_license(folder: Path) -> tuple[Path, Path]:
    """The licence and the keys of a stack that licenses itself, made in `folder` on first use: offline, every pool.

    Returns (LICENSE_FILE_PATH, LICENSE_KEYS_PATH). Its customer says plainly what it is.
    """
    public, file = folder / "keys.json", folder / "license.jwt"
    if not file.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
        key = SigningKey.generate()
        write_key(key, made / "private.pem", made / public.name)
        token = mint(key, AUDIENCE, str(uuid.uuid4()), Terms(LOCAL_CUSTOMER, 3660), time.time())
        (made / file.name).write_text(token + "\n")
        try:
            made.rename(folder)  # at once and whole, since two stacks may start together
        except OSError:
            shutil.rmtree(made)
            if not file.exists():
                raise
    return file, public
