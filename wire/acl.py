"""What each service may do in Redis, and nothing more: users for an ACL file (Redis 6.2 and later).

`compose/redis/users.acl.example` is what `render` gives; a test keeps it so, and another runs a whole stack under it.
Redis 6.2 knows keys and commands of a user, but not which commands on which keys. So a service that reads a key could
do to it what it does to its others: ingress, which deletes sessions, could delete the licence's status (it is written
anew every second), but not forge it, for it may not SET; usage could, whose clock needs SET (`wire/ticks.py`). The
console reads only.
"""

from collections.abc import Mapping

from wire.keys import Keys

#: To connect, to be seen and to find the servers of a cluster.
_EVERYBODY = "ping info hello auth select client readonly command cluster|slots time script|load evalsha"
_STREAMS = "xadd xlen xpending xack xdel xinfo"

#: Inside `recordings.lua`.
_RECORDINGS = "hmget xadd hset pexpire"

#: Service -> commands, those inside `leases.lua` included.
COMMANDS = {
    "ingress": f"{_STREAMS} {_RECORDINGS} xread xclaim xtrim get del exists expire hget hgetall hexists pttl xrange"
    " zadd zcard zscore zrange zrem zremrangebyscore subscribe",
    "worker": f"{_STREAMS} {_RECORDINGS} xread xrange xreadgroup xclaim xtrim xgroup exists expire pttl hget hdel"
    " hincrby hgetall hmget subscribe pubsub|numsub",
    "licensing": "get set",
    "usage": f"{_STREAMS} xrange xreadgroup xautoclaim xclaim xgroup get expire hset hdel hvals",
    "console": "get exists hget hgetall hmget pttl xlen xpending xrange xrevrange zrange zscore",
}
#: What arq's clock needs of its own keys.
_CLOCK = (
    "zadd zrem zcard zcount zrange zrangebyscore zscore zincrby exists watch unwatch multi exec psetex set get del"
    " expire pexpire dbsize incr incrby"
)
_TICKING = ("licensing", "usage")


def patterns(service: str, keys: Keys) -> list[str]:
    """The keys that the service may touch, as patterns. Raises KeyError for no service."""
    session = [keys.state("*"), keys.audio("*"), keys.events("*"), keys.resume("*")]
    recording = [keys.recording_log("*"), keys.recording_facts("*")]
    found = {
        "ingress": [
            keys.offers("*"),
            *session,
            keys.told("*"),
            keys.inbox("*"),
            keys.alive("*"),
            keys.buried("*"),
            keys.workers("*"),
            keys.places("*"),
            keys.license_status(),
            keys.usage(),
            *recording,
            keys.recordings(),
        ],
        "worker": [
            keys.offers("*"),
            *session,
            keys.inbox("*"),
            keys.alive("*"),
            keys.buried("*"),
            keys.workers("*"),
            *recording,
        ],
        "licensing": [keys.license_status(), keys.license_trust()],
        "usage": [keys.license_status(), keys.usage(), keys.usage_open()],
        "console": [
            keys.offers("*"),
            *session,
            keys.workers("*"),
            *recording,
            keys.recordings(),
            keys.license_status(),
            keys.usage(),
        ],
    }[service]
    if service in _TICKING:
        queue = keys.ticks(f"{service}*")
        found += [queue, queue + b"*", b"arq:*" + queue + b"*"]
    return [pattern.decode() for pattern in found]


def channels(service: str, keys: Keys) -> list[str]:
    """The channels on which the service may listen (`wire/presence.py`), as patterns."""
    found = {"ingress": keys.ingress_present("*"), "worker": keys.worker_present("*", "*")}
    return [found[service].decode()] if service in found else []


def rule(service: str, password: str, keys: Keys) -> str:
    """The service's line of an ACL file; `password` as it is to be written there. Raises KeyError for no service."""
    commands = f"{_EVERYBODY} {COMMANDS[service]} {_CLOCK if service in _TICKING else ''}".split()
    words = ["user", service, "on", f">{password}", "resetkeys", "resetchannels", "-@all"]
    words += [f"~{pattern}" for pattern in patterns(service, keys)]
    words += [f"&{pattern}" for pattern in channels(service, keys)]
    return " ".join([*words, *(f"+{command}" for command in dict.fromkeys(commands))])


def render(passwords: Mapping[str, str], keys: Keys) -> str:
    """A whole file: these services, and nobody else."""
    lines = [rule(service, password, keys) for service, password in passwords.items()]
    return "\n".join(["user default off", *lines]) + "\n"
