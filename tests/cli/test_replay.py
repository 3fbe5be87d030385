"""`steno replay` as it is typed, on a real Redis."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner

from cli.main import app
from tests.recorded import EVENTFUL, ID, recording
from wire.archive import Archive
from wire.entries import Event, Lease, Offer, Publication, SessionEvent, pack_value
from wire.errors import BusUnavailable, StackError
from wire.keys import FACTS_BEGIN
from wire.recorded import FORMAT

KEY = "00" * 32
ROOT = Path(__file__).parents[2]


@pytest.fixture
def steno(monkeypatch, redis_url, namespace):
    """`steno("show", ...)`: what the command printed. Raises what `main` would tell in a line."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("NAMESPACE", namespace)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("RECORD_KEY", raising=False)

    def run(*words: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["replay", *words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result.output

    return run


@pytest.fixture
def kept(bus, run):
    run(Archive(bus).put(recording(more=EVENTFUL), 3600.0, 10**6))


def test_without_recordings_the_list_says_how_to_make_some(steno):
    assert "RECORD" in steno("list")


def test_a_recording_is_listed_shown_and_erased(steno, kept, redis_url, keys):
    assert "0f6d7a3e" in steno("list")
    assert json.loads(steno("list", "--json"))["id"] == ID
    assert "Hello, there." in steno("show", "0f6d")
    assert "step " in steno("show", ID, "--all")
    assert "there." in steno("show", ID, "--words")
    lines = [json.loads(line) for line in steno("show", ID, "--json").splitlines()]
    assert lines[0]["facts"]["id"] == ID
    assert len(lines) == 1 + len(recording(more=EVENTFUL).items)
    assert steno("rm", "0f6d") == f"erased {ID}\n"
    with redis.Redis.from_url(redis_url) as server:
        assert [key for key in server.scan_iter(match=keys.everything()) if ID.encode() in key] == []
    assert "not all were there" in steno("rm", ID, code=1)
    with pytest.raises(StackError, match=f"no recording {ID}"):
        steno("show", ID)


def test_a_recording_travels(steno, kept, tmp_path):
    folder = str(tmp_path / "tuesday")
    assert steno("export", ID, folder) == f"{folder}\n"
    assert "identical" in steno("diff", ID, folder, "--check")
    with pytest.raises(StackError, match="already"):
        steno("import", folder)
    steno("rm", ID)
    assert steno("import", folder) == f"{ID}\n"
    assert "Hello, there." in steno("show", ID)


def test_what_differs_is_an_error_if_asked(steno, kept, bus, run, tmp_path):
    from cli import replay_files
    from tests.recorded import HELLO

    replay_files.write(recording((HELLO,)), tmp_path / "other")
    assert "missing" in steno("diff", ID, str(tmp_path / "other"))
    steno("diff", ID, str(tmp_path / "other"), "--check", code=1)


def test_encrypted_it_opens_with_the_key_alone(steno, bus, run, monkeypatch):
    run(Archive(bus, bytes(32)).put(recording(), 3600.0, 10**6))
    assert "RECORD_KEY is not set" in steno("list")
    with pytest.raises(StackError, match="RECORD_KEY is not set"):
        steno("show", ID)
    monkeypatch.setenv("RECORD_KEY", KEY)
    assert "Hello, there." in steno("show", ID)


def test_what_cannot_be_read_is_told_and_the_rest_is_shown(steno, bus, run, monkeypatch, redis_url, keys):
    run(Archive(bus, bytes(32)).put(recording(), 3600.0, 10**6))
    monkeypatch.setenv("RECORD_KEY", KEY)
    log, facts = keys.recording_log(ID), keys.recording_facts(ID)
    with redis.Redis.from_url(redis_url) as server:
        server.xadd(log, {"e": b"rubbish"})
        told = steno("show", ID)
        assert "not all is here: 1 of 2 parts of the log cannot be read" in told
        assert "Hello, there." in told
        monkeypatch.setenv("RECORD_KEY", "11" * 32)
        with pytest.raises(StackError, match=f"{ID} cannot be read: RECORD_KEY is not the key"):
            steno("show", ID)
        monkeypatch.setenv("RECORD_KEY", KEY)
        later = pack_value([FORMAT + 1, "ingress", 0, []])
        server.xadd(log, {"e": later})
        assert "2 of 3 parts of the log cannot be read" in steno("show", ID, "--words")
        server.xtrim(log, maxlen=2, approximate=False)  # what is left: rubbish
        assert "2 of 2 parts of the log cannot be read" in steno("show", ID)
        server.hset(facts, FACTS_BEGIN, later)
        server.delete(log)
        server.xadd(log, {"e": later})
        server.expire(log, 60)
        with pytest.raises(StackError, match=f"{ID} cannot be read: written in format .* by a later release"):
            steno("show", ID)
        server.delete(log, facts)
        with pytest.raises(StackError, match=f"{ID} has expired"):
            steno("show", ID)


def test_an_ambiguous_beginning_is_told(steno, kept, bus, run):
    from dataclasses import replace

    twin = replace(recording(), facts=replace(recording().facts, id="0f6dffff"))
    run(Archive(bus).put(twin, 3600.0, 10**6))
    with pytest.raises(StackError, match="several recordings begin with 0f6d"):
        steno("show", "0f6d")
    assert "Hello" in steno("show", "0f6df")


def test_wrong_usage_is_told(steno, kept, monkeypatch):
    assert "min_turn_silence=200" in steno("run", ID, "--set", "nonsense", code=2)
    with pytest.raises(StackError, match="no parameter nonsense"):
        steno("run", ID, "--set", "nonsense=1")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    with pytest.raises(BusUnavailable, match="REDIS_URL is redis:"):
        steno("list")


def test_a_session_that_does_not_run_cannot_be_followed(steno):
    with pytest.raises(StackError, match="no session nobody runs"):
        steno("follow", "nobody")


@pytest.fixture
def started(redis_url, namespace, tmp_path):
    """`started("play", ...)`: the command as a process of its own, and where its output goes."""
    running: list[subprocess.Popen] = []

    def start(*words: str) -> tuple[subprocess.Popen, Path]:
        log = tmp_path / "log"
        env = {**os.environ, "REDIS_URL": redis_url, "NAMESPACE": namespace, "PYTHONUNBUFFERED": "1"}
        with log.open("w") as out:
            command = [sys.executable, "-m", "cli.main", "replay", *words]
            running.append(subprocess.Popen(command, env=env, stdout=out, stderr=out, cwd=ROOT))
        return running[-1], log

    yield start
    for process in running:
        process.kill()
        process.wait()


def test_a_session_is_followed_until_its_keys_are_gone(started, bus, run, redis_url, keys, wait_until_sync):
    with redis.Redis.from_url(redis_url) as server:

        async def begun() -> None:
            offer = Offer("live", "node", "english", {})
            await bus.offer(offer)
            server.hset(keys.state("live"), "generation", 1)
            told = SessionEvent("live", 1, 0, Event.MESSAGE, 1_500, text="a turn")
            await bus.publish([Publication(Lease(b"0-1", offer, 1, None), (told,))])

        run(begun())
        following, log = started("follow", "live")
        wait_until_sync(lambda: "1-0      1.50 s  a turn" in log.read_text(), 30)
        assert server.exists(keys.state("live"), keys.events("live")) == 2, "nothing was disturbed"
        server.delete(keys.state("live"), keys.events("live"))
        wait_until_sync(lambda: following.poll() == 0, 30)


def test_play_serves_until_interrupted(kept, started, wait_until_sync):
    playing, log = started("play", ID, "--port", "0")
    wait_until_sync(lambda: "playing on ws://" in log.read_text(), 30)
    playing.send_signal(signal.SIGINT)
    wait_until_sync(lambda: playing.poll() == 0, 30)
