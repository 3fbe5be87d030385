"""Whatever happens to Redis, or to the way there, nobody notices anything but a pause (`chaos.py`)."""

import os
import random
import signal
import sys
from collections.abc import Iterator

import pytest

from tests.conftest import _wait_until_sync as wait_until
from tests.conversation import Conversation, is_final
from tests.desk import READY_S
from tests.speech import FOX, clip_pcm, silence
from tests.system.chaos import INGRESS, SOON, WORKERS, Theatre, told

pytestmark = [pytest.mark.weights, pytest.mark.timeout(180)]

HELLO = "hello_world.wav"
#: Each of words that are heard well, with a turn that ends before its middle.
CLIPS = {
    "north": clip_pcm(HELLO) + silence(1.5) + clip_pcm(FOX) + silence(0.5),
    "south": clip_pcm(FOX) + silence(1.5) + clip_pcm(FOX),
}


@pytest.fixture(scope="module")
def theatre(tmp_path_factory) -> Iterator[Theatre]:
    with Theatre(tmp_path_factory.mktemp("chaos"), "--appendonly", "yes", "--save", "") as found:
        yield found


@pytest.fixture(scope="module")
def undisturbed(theatre: Theatre) -> dict[str, Conversation]:
    return theatre.play(CLIPS, lambda: None)


def test_redis_comes_back_empty(theatre, undisturbed):
    found = theatre.play(CLIPS, lambda: theatre.server.restart(forget=True))
    theatre.holds(undisturbed, found)


def test_redis_comes_back_with_what_it_had_written(theatre, undisturbed):
    found = theatre.play(CLIPS, theatre.server.restart)
    theatre.holds(undisturbed, found)


def test_redis_is_full_for_a_while(theatre, undisturbed):
    def act() -> None:
        theatre.redis.config_set("maxmemory", "1")
        wait_until(lambda: any(not theatre.is_ready(node) for node in INGRESS))
        theatre.redis.config_set("maxmemory", "0")

    found = theatre.play(CLIPS, act)
    theatre.holds(undisturbed, found)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are Linux's")
def test_the_disk_of_redis_is_full_for_a_while(theatre, undisturbed):
    def act() -> None:
        theatre.server.fill_disk(True)
        wait_until(lambda: any(not theatre.is_ready(node) for node in INGRESS))
        theatre.server.fill_disk(False)

    found = theatre.play(CLIPS, act)
    theatre.holds(undisturbed, found)


@pytest.mark.slow
def test_the_way_of_the_worker_that_holds_a_session_is_stalled(theatre, undisturbed):
    stalled: list[str] = []

    def act() -> None:
        stalled.extend(theatre.holders())
        theatre.lines[stalled[0]].stall()
        wait_until(lambda: stalled[0] not in theatre.holders(), within_s=30)

    found = theatre.play(CLIPS, act)
    theatre.lines[stalled[0]].resume()
    theatre.holds(undisturbed, found)


@pytest.mark.slow
def test_the_ways_of_the_ingress_nodes_are_cut_for_a_moment(theatre, undisturbed):
    def act() -> None:
        for node in INGRESS:
            theatre.lines[node].cut()
        wait_until(lambda: not any(theatre.is_ready(node) for node in INGRESS))
        for node in INGRESS:
            theatre.lines[node].resume()

    found = theatre.play(CLIPS, act)
    theatre.holds(undisturbed, found)
    theatre.leaves_nothing()


@pytest.mark.slow
def test_an_ingress_that_was_cut_off_for_so_long_that_it_was_taken_for_dead_gets_its_sessions_back(
    theatre, undisturbed
):
    def act() -> None:
        theatre.lines["north"].stall()
        wait_until(lambda: len(theatre.sessions()) == 1, within_s=30)  # let go by their worker
        theatre.lines["north"].resume()

    found = theatre.play(CLIPS, act)
    theatre.holds(undisturbed, found)


@pytest.mark.slow
def test_an_ingress_dies_and_what_it_held_is_free_while_others_go_on(theatre, undisturbed):
    """Long before its place of the licence is: that lasts half a minute. The other node's session notices nothing."""
    with Conversation(theatre.urls["north"], **SOON) as lost:
        lost.say(CLIPS["north"])
        lost.hear_until(is_final)

        def act() -> None:
            theatre.children["north"].kill()
            wait_until(lambda: len(theatre.sessions()) == 1, within_s=20)

        found = theatre.play({"south": CLIPS["south"]}, act)
    assert told(found["south"]) == told(undisturbed["south"])
    theatre.start_ingress("north")
    theatre.until_ready()
    wait_until(theatre.all_over, within_s=READY_S)
    theatre.sent_ms = theatre.counted()  # the dead node's last lap may be missing
    theatre.holds({}, {})


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_anything_in_any_order(theatre, undisturbed):
    """Two faults at once, of all kinds, from a fixed seed."""
    dice = random.Random(7)

    def act() -> None:
        line = theatre.lines[dice.choice([*INGRESS, *WORKERS])]
        line.delay_s, line.bytes_per_s = dice.choice([0.0, 0.02]), dice.choice([0, 500_000])
        if dice.random() < 0.5:
            line.stall()
        victim = theatre.children[dice.choice(WORKERS)]
        how = dice.choice(["stop", "forget", "restart", "nothing"])
        if how == "stop":
            os.kill(victim.pid, signal.SIGSTOP)
        elif how != "nothing":
            theatre.server.restart(forget=how == "forget")
        wait_until(lambda: len(theatre.holders()) <= len(WORKERS))
        os.kill(victim.pid, signal.SIGCONT)
        for other in theatre.lines.values():
            other.resume()

    for _ in range(12):
        found = theatre.play(CLIPS, act)
        for line in theatre.lines.values():
            line.delay_s, line.bytes_per_s = 0.0, 0
        theatre.holds(undisturbed, found)
    theatre.leaves_nothing()
