"""Servers that are hurt come back as they should, and those in company stand in for each other."""

import pytest
import redis
from redis.cluster import RedisCluster
from redis.sentinel import Sentinel

from cli import redis_fleet
from cli.child import free_ports
from cli.redis_fleet import SERVICE, Server
from cli.redis_server import RedisServerError


def test_a_server_keeps_what_it_was_told_to_keep_through_a_kill(tmp_path, free_port) -> None:
    server = Server(free_port(), tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    with redis_fleet.running(server):
        with server.client() as client:
            client.set("name", "kept", ex=60)
        server.restart()
        with server.client() as client:
            assert client.get("name") == b"kept"
        server.restart(forget=True)
        with redis.Redis.from_url(server.url) as client:
            assert client.get("name") is None
        server.kill()
        assert not server.answers()


def test_one_that_cannot_start_says_why(tmp_path, free_port) -> None:
    with (
        pytest.raises(RedisServerError, match="no-such-option"),
        redis_fleet.running(Server(free_port(), tmp_path, "--no-such-option", "1")),
    ):
        pass


def master_port(watch: Sentinel) -> int:
    try:
        return int(watch.discover_master(SERVICE)[1])
    except redis.ConnectionError:
        return 0


def test_a_replica_takes_the_place_of_a_killed_master(tmp_path, wait_until_sync) -> None:
    ports = free_ports(5)
    with redis_fleet.sentinels(ports, tmp_path) as (master, replica, watchers):
        watch = Sentinel([("127.0.0.1", watcher.port) for watcher in watchers])
        assert master_port(watch) == master.port
        master.kill()
        wait_until_sync(lambda: master_port(watch) == replica.port, within_s=60)


def test_three_masters_share_the_keys(tmp_path) -> None:
    with redis_fleet.cluster(free_ports(3), tmp_path) as servers:
        client = RedisCluster(host="127.0.0.1", port=servers[0].port)
        for number in range(50):
            client.set(f"key-{number}", "x", ex=60)
        sizes = []
        for server in servers:
            with server.client() as one:
                sizes.append(one.dbsize())
        assert sum(sizes) == 50
        assert min(sizes) > 0
        client.close()
