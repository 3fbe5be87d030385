"""Every Redis key of the stack. Nobody builds a key elsewhere (enforced by tests/test_house.py).

Key                          Type    Writer -> reader                           Lives until
---------------------------  ------  -----------------------------------------  ----------------------------------------
offers:{pool}                stream  ingress -> one free worker (group)         settled at session end, or withdrawn
pool:{pool}:workers          hash    workers -> admission, `steno status`       refreshed by workers; expires
session:{id}:audio           stream  ingress -> the lease holder                trimmed to the checkpoint; expires
session:{id}:events          stream  lease holder -> ingress, console, replay   ids generation-sequence; expires
session:{id}:state           hash    ingress, lease holder -> next holder       expires
session:{id}:resume          hash    its ingress -> the next one                a resumable session; expires
session:{id}:told            stream  its ingress -> the next one                messages told, by number; expires
ingress:{instance}:inbox     stream  workers -> that ingress                    bounded length; expires
ingress:{instance}:alive     string  that ingress -> workers                    seconds; else it has died
places:{holder}              zset    ingress -> every ingress                   a key's sessions, or all; expires
license:status               string  licensing -> ingress, usage                seconds; a missing key admits nobody
license:trust                string  licensing -> itself after a restart        expires long after any trust window
usage                        stream  ingress -> usage (group `usage`)           gone once the tracker has counted it
usage:open                   hash    usage -> usage: last lap of open sessions  closed out; expires
recording:{id}:log           stream  ingress, lease holder -> replay            expires; bounded in bytes (RECORD_*)
recording:{id}:facts         hash    ingress -> lease holder, replay            with its log
recordings                   zset    ingress -> replay: when each began         what it names has gone; expires
ticks:{service}              zset    arq's queue of a service (or of a process) expires without a service

The keys of a session, and of its recording, carry its id as a hash tag (the braces are literal), so that one session
lives in one slot of a Redis Cluster; a queue's name carries one, too, and so do the keys that arq makes of it. All keys
are bytes: replies come as bytes, and a cursor table keyed by `str` would never advance.
"""

from dataclasses import dataclass

#: Consumer group of `offers:{pool}`.
WORKERS_GROUP = b"workers"

#: Consumer group of `usage`.
USAGE_GROUP = b"usage"

#: Whose places are those of all sessions together, as many as the licence allows; no API key is called so.
LICENSE_HOLDER = "license"

#: Whose places are those of all replays together; no API key is called so.
REPLAY_HOLDER = "replay"

#: Fields of `recording:{id}:facts`: what it is of and how it ended, its size and limit in bytes, how long it is kept
#: in ms, whether it is encrypted, whether it has reached its limit.
FACTS_BEGIN, FACTS_END = b"facts", b"end"
FACTS_SIZE, FACTS_MOST, FACTS_KEEP = b"size", b"most", b"keep"
FACTS_SEALED, FACTS_CUT = b"sealed", b"cut"

#: Fields of `session:{id}:state`.
STATE_OFFER = b"offer"
STATE_INGRESS = b"ingress"
STATE_GENERATION = b"generation"
STATE_TAKES = b"takes"
STATE_HELD = b"held"
STATE_CHECKPOINT = b"checkpoint"

#: Fields of `session:{id}:resume`: how many times the session has moved, the node it is on, and what that node knows.
RESUME_MOVES = b"moves"
RESUME_NODE = b"node"
RESUME_WHO = b"who"
RESUME_PLACE = b"place"


@dataclass(frozen=True)
class Keys:
    """Builds keys under one namespace, so that several stacks (or tests) can share a server."""

    namespace: str = "steno"

    def _key(self, *parts: str) -> bytes:
        return ":".join((self.namespace, *parts)).encode()

    def offers(self, pool: str) -> bytes:
        return self._key("offers", pool)

    def workers(self, pool: str) -> bytes:
        return self._key("pool", pool, "workers")

    def audio(self, session: str) -> bytes:
        return f"{self.namespace}:session:{{{session}}}:audio".encode()  # for each frame

    def events(self, session: str) -> bytes:
        return self._key("session", f"{{{session}}}", "events")

    def state(self, session: str) -> bytes:
        return self._key("session", f"{{{session}}}", "state")

    def resume(self, session: str) -> bytes:
        return self._key("session", f"{{{session}}}", "resume")

    def told(self, session: str) -> bytes:
        return self._key("session", f"{{{session}}}", "told")

    def alive(self, instance: str) -> bytes:
        return self._key("ingress", instance, "alive")

    def inbox(self, instance: str) -> bytes:
        return self._key("ingress", instance, "inbox")

    def places(self, holder: str) -> bytes:
        return self._key("places", holder)

    def license_status(self) -> bytes:
        return self._key("license", "status")

    def license_trust(self) -> bytes:
        return self._key("license", "trust")

    def usage(self) -> bytes:
        return self._key("usage")

    def usage_open(self) -> bytes:
        return self._key("usage", "open")

    def recording_log(self, session: str) -> bytes:
        return self._key("recording", f"{{{session}}}", "log")

    def recording_facts(self, session: str) -> bytes:
        return self._key("recording", f"{{{session}}}", "facts")

    def recordings(self) -> bytes:
        return self._key("recordings")

    def ticks(self, service: str) -> bytes:
        return self._key("ticks", f"{{{service}}}")

    def everything(self) -> bytes:
        """A pattern for SCAN that finds every key of this namespace."""
        return self._key("*")
