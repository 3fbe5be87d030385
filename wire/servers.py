"""Where Redis is: the forms of REDIS_URL, and a client for each.

    redis://[USER:PASSWORD@]HOST:PORT/DB          one server; rediss:// with TLS
    unix:///PATH?db=DB                            one server of this machine
    redis+sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT/SERVICE[/DB]      the master that these sentinels name
    redis+cluster://[USER:PASSWORD@]HOST:PORT,HOST:PORT                    a cluster, found by any of these nodes

Query parameters are redis-py's (`ssl_ca_certs`, ...); `ssl=true` turns TLS on for the last two. With Sentinel,
`sentinel_username` and `sentinel_password` are for the sentinels themselves.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import redis.asyncio as redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

PLAIN = ("redis", "rediss", "unix")
SENTINEL, CLUSTER = "redis+sentinel", "redis+cluster"
FORMS = "redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://"
_PORTS = {SENTINEL: 26379, CLUSTER: 6379}


@dataclass(frozen=True)
class Servers:
    """A REDIS_URL, read. `hosts` and `service` are of the forms with several servers."""

    url: str
    scheme: str
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    db: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_cluster(self) -> bool:
        return self.scheme == CLUSTER


def parse(url: str) -> Servers:
    """Raises ValueError with what is wrong, which never holds a password."""
    scheme = url.partition("://")[0]
    if scheme in PLAIN and "://" in url:
        return Servers(url, scheme)
    if scheme not in (SENTINEL, CLUSTER):
        raise ValueError(f"should begin with {FORMS}")
    parts = urlsplit(url)
    credentials, _, places = parts.netloc.rpartition("@")
    hosts = tuple(_host(place, _PORTS[scheme]) for place in places.split(","))
    options: dict[str, Any] = dict(parse_qsl(parts.query))
    if "ssl" in options:
        options["ssl"] = options["ssl"].lower() in ("1", "true", "yes")
    user, _, password = credentials.partition(":")
    options |= {name: unquote(text) for name, text in (("username", user), ("password", password)) if text}
    names = [name for name in parts.path.split("/") if name]
    if scheme == CLUSTER:
        if names:
            raise ValueError("a cluster has no databases: nothing may follow the hosts")
        return Servers(url, scheme, hosts, options=options)
    if not names or len(names) > 2 or not all(name.isdecimal() for name in names[1:]):
        raise ValueError("should be redis+sentinel://HOST:PORT,HOST:PORT/SERVICE or .../SERVICE/DB")
    return Servers(url, scheme, hosts, names[0], int(names[1]) if len(names) == 2 else 0, options)


def _host(place: str, port: int) -> tuple[str, int]:
    name, _, number = place.rpartition(":") if place.count(":") == 1 or "]:" in place else (place, "", "")
    if not name or (number and not (number.isdecimal() and int(number) < 65536)):
        raise ValueError("should name its servers as HOST:PORT, with commas between")
    return name.strip("[]"), int(number) if number else port


def connect(servers: Servers, timeout_s: float, connect_timeout_s: float, most: int) -> Any:
    """A client for commands that take up to `timeout_s`; nothing is tried twice. At most `most` connections a server
    (whoever finds them all busy waits) where there is one server; redis-py's types know no keys of bytes.
    """
    timeouts = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": connect_timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }
    if servers.scheme == CLUSTER:
        return RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in servers.hosts],
            cluster_error_retry_attempts=1,
            connection_error_retry_attempts=0,
            **{**servers.options, **timeouts},
        )
    if servers.scheme == SENTINEL:
        return _sentinel(servers, timeouts).master_for(servers.service, db=servers.db)
    return redis.Redis.from_pool(
        redis.BlockingConnectionPool.from_url(
            servers.url, max_connections=most, timeout=connect_timeout_s, **timeouts
        )
    )


def _sentinel(servers: Servers, timeouts: Mapping[str, Any]) -> Any:
    options = dict(servers.options)
    theirs = {
        name: options.pop(f"sentinel_{name}")
        for name in ("username", "password")
        if f"sentinel_{name}" in options
    }
    tls = {name: value for name, value in options.items() if name.startswith("ssl")}
    theirs |= {**tls, "socket_timeout": 2.0, "socket_connect_timeout": 2.0}
    sentinel: Any = Sentinel  # untyped
    return sentinel(servers.hosts, sentinel_kwargs=theirs, **{**options, **timeouts})


def is_lost(error: Exception) -> bool:
    """Whether this, too, means that a server is gone: uvloop's word for a connection that ends while something is
    written to it, and what redis-py stumbles over when another task has just given up its connections or nodes.
    """
    if "handler is closed" in str(error):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_in = str(trace.tb_frame.f_globals.get("__name__", "")) if trace else ""
    return isinstance(error, AttributeError) and "'NoneType'" in str(error) and raised_in.startswith("redis.")


async def close(client: Any) -> None:
    """End its connections."""
    await client.aclose()
    if not isinstance(client, RedisCluster):
        await client.connection_pool.disconnect()
        manager = getattr(client.connection_pool, "sentinel_manager", None)
        for sentinel in manager.sentinels if manager else ():
            await sentinel.aclose()


async def pool_for(servers: Servers, key: bytes, timeout_s: float) -> Any:
    """Connections to the one server that holds `key` at present, for a library that knows no other kind."""
    if not servers.is_cluster:
        return connect(servers, timeout_s, timeout_s, 16).connection_pool
    cluster = connect(servers, timeout_s, timeout_s, 16)
    try:
        await cluster.initialize()
        node = cluster.get_node_from_key(key)
        address = {"host": node.host, "port": node.port}
    finally:
        await cluster.aclose()
    options = {name: value for name, value in servers.options.items() if name != "ssl"}
    options["connection_class"] = redis.SSLConnection if servers.options.get("ssl") else redis.Connection
    return redis.ConnectionPool(
        **address, **options, socket_timeout=timeout_s, socket_connect_timeout=timeout_s
    )
