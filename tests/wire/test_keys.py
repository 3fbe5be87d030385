"""Keys: one namespace, a session's keys in one slot of a cluster, bytes throughout."""

from collections.abc import Callable
from fnmatch import fnmatchcase

import pytest
import redis
from redis.crc import key_slot

from wire.keys import Keys

SESSION_KEYS = (Keys.audio, Keys.events, Keys.state)
OTHER_KEYS = (Keys.offers, Keys.workers, Keys.inbox, Keys.places, Keys.ticks)
#: Keys of which a stack has one each.
SINGLE_KEYS = (
    Keys.license_status,
    Keys.license_trust,
    Keys.usage,
    Keys.usage_open,
)


@pytest.mark.parametrize(
    "build,text",
    [
        (Keys.offers, b"steno:offers:x"),
        (Keys.workers, b"steno:pool:x:workers"),
        (Keys.audio, b"steno:session:{x}:audio"),
        (Keys.events, b"steno:session:{x}:events"),
        (Keys.state, b"steno:session:{x}:state"),
        (Keys.inbox, b"steno:ingress:x:inbox"),
        (Keys.places, b"steno:places:x"),
        (Keys.ticks, b"steno:ticks:{x}"),
        (lambda keys, _: keys.license_status(), b"steno:license:status"),
        (lambda keys, _: keys.license_trust(), b"steno:license:trust"),
        (lambda keys, _: keys.usage(), b"steno:usage"),
        (lambda keys, _: keys.usage_open(), b"steno:usage:open"),
    ],
)
def test_the_keys_that_operators_see(build: Callable[[Keys, str], bytes], text: bytes):
    assert build(Keys(), "x") == text


def test_the_keys_of_one_session_share_a_cluster_slot():
    slots = {key_slot(build(Keys(), "5d1e3c0a")) for build in SESSION_KEYS}
    assert len(slots) == 1


def test_sessions_spread_over_slots():
    slots = {key_slot(Keys().audio(str(number))) for number in range(100)}
    assert len(slots) > 90


def test_no_two_keys_meet():
    built = [build(Keys(name), x) for name in "ab" for x in ("1", "2") for build in SESSION_KEYS + OTHER_KEYS]
    built += [build(Keys(name)) for name in "ab" for build in SINGLE_KEYS]
    assert len(set(built)) == len(built)


def test_everything_matches_each_key_of_its_namespace_only():
    pattern = Keys("one").everything().decode()
    for build in SESSION_KEYS + OTHER_KEYS:
        assert fnmatchcase(build(Keys("one"), "x").decode(), pattern)
        assert not fnmatchcase(build(Keys("other"), "x").decode(), pattern)


def test_a_server_finds_everything(redis_url: str, keys: Keys):
    with redis.Redis.from_url(redis_url) as client:
        written = {build(keys, "x") for build in SESSION_KEYS + OTHER_KEYS}
        for key in written:
            client.set(key, b"", ex=60)
        assert set(client.scan_iter(match=keys.everything())) == written
