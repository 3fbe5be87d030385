"""`cli.bench_soak_crowd`: every kind of session on a stack without a model, and how it ends for the client."""

import random
from itertools import pairwise

import pytest

from cli import bench_scripted, redis_server, up
from cli.bench_soak_crowd import KINDS, SECONDS, Crowd, _piece, kinds, run


def test_pieces_are_of_every_length_and_mostly_short() -> None:
    speech = bytes(range(256)) * 125 * 60  # a minute
    chance = random.Random(1)
    pieces = [_piece(speech, chance) for _ in range(300)]
    seconds = sorted(sum(map(len, piece)) / 32_000 for piece in pieces)
    assert SECONDS[0] <= seconds[0] < 0.3
    assert 2.5 < seconds[-1] <= SECONDS[1]
    assert seconds[150] < sum(SECONDS) / 2
    assert all(b"".join(piece) in speech for piece in pieces[:5])


def test_no_kind_is_named_twice() -> None:
    assert len(set(kinds())) == len(list(kinds())) == len(KINDS) + 10


@pytest.mark.timeout(180)
def test_each_kind_ends_as_it_should_on_two_nodes() -> None:
    ends = {
        **dict.fromkeys(("speaking", "updating", "forcing", "coming back"), "1000"),
        "breaking off": "broke off",
        "staying away": "stayed away",
    }
    env = {"RESUME_WINDOW_S": "2"}
    with (
        redis_server.EmbeddedRedis() as redis,
        up.Stack(pools=(), redis_url=redis.url, env=env, nodes=2) as stack,
        bench_scripted.running(redis.url),
    ):
        assert len(set(stack.urls)) == 2
        outcomes = run(Crowd(tuple(stack.urls), bytes(32_000 * 5), 60, 20, seed=1))
    assert sum(outcomes.values()) == 60
    seen = [outcome.split(": ") for outcome in outcomes]
    assert all(first[0] != second[0] for first, second in pairwise(seen)), (
        f"one end for each kind: {outcomes}"
    )
    assert {kind: end for kind, end in seen if kind in ends} == ends
