"""Every Redis key of the stack. Nobody builds a key elsewhere (enforced by tests/test_house.py).

Key                          Type    Writer -> reader                           Lives until
---------------------------  ------  -----------------------------------------  ----------------------------------------
offers:{pool}                stream  ingress -> one free worker (group)         settled at session end, or withdrawn
pool:{pool}:workers          hash    workers -> admission, `steno status`       refreshed by workers; expires
session:{id}:audio           stream  ingress -> the lease holder                trimmed to the checkpoint; expires
session:{id}:events          stream  lease holder -> ingress, replay            ids generation-sequence; expires
session:{id}:state           hash    ingress, lease holder -> next holder       expires
ingress:{instance}:inbox     stream  workers -> that ingress                    bounded length; expires

A session's keys carry its id as a hash tag (the braces are literal), so that one session lives in one slot of a
Redis Cluster. All keys are bytes: replies come as bytes, and a cursor table keyed by `str` would never advance.
"""

from dataclasses import dataclass

#: Consumer group of `offers:{pool}`.
WORKERS_GROUP = b"workers"

#: Fields of `session:{id}:state`.
STATE_OFFER = b"offer"
STATE_INGRESS = b"ingress"
STATE_GENERATION = b"generation"
STATE_CHECKPOINT = b"checkpoint"


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
        return self._key("session", f"{{{session}}}", "audio")

    def events(self, session: str) -> bytes:
        return self._key("session", f"{{{session}}}", "events")

    def state(self, session: str) -> bytes:
        return self._key("session", f"{{{session}}}", "state")

    def inbox(self, instance: str) -> bytes:
        return self._key("ingress", instance, "inbox")

    def everything(self) -> bytes:
        """A pattern for SCAN that finds every key of this namespace."""
        return self._key("*")
