"""Which pools are served: known, not known yet, gone for a moment, gone."""

from ingress.pools import PATIENCE_S, Pools
from wire.entries import WorkerLoad
from wire.errors import Close
from wire.speech_models import DEFAULT_MODEL, MODELS, POOLS

WORKERS = {"w": WorkerLoad(16, 4, 0, 0, "m")}


def test_while_nothing_is_known_nobody_is_refused():
    pools = Pools()
    pools.heard({"english": {}, "multilang": {}}, 0.0)
    assert pools.refusal("u3pro", "u3-rt-pro", 0.0) is None


def test_a_pool_that_nobody_serves_is_named_with_those_that_are():
    pools = Pools()
    pools.heard({"english": WORKERS, "multilang": WORKERS, "u3pro": {}}, 0.0)
    assert pools.refusal("english", "universal-streaming-english", 1.0) is None
    refusal = pools.refusal("u3pro", "universal-3-5-pro", 1.0)
    assert refusal is not None
    assert refusal.code is Close.INVALID_INPUT
    assert refusal.text == (
        "User Input Validation Error: Invalid 'speech_model': Value error, 'universal-3-5-pro' needs the pool 'u3pro', "
        "which is not deployed here. Deployed: english, multilang"
    )


def test_a_worker_that_is_restarted_is_waited_for():
    pools = Pools()
    pools.heard({"english": WORKERS, "multilang": WORKERS}, 0.0)
    pools.heard({"english": WORKERS, "multilang": {}}, PATIENCE_S)
    assert pools.refusal("multilang", "whisper-rt", PATIENCE_S) is None
    refusal = pools.refusal("multilang", "whisper-rt", PATIENCE_S + 1)
    assert refusal is not None
    assert refusal.text.endswith("Deployed: english")


def test_when_all_are_gone_sessions_wait_as_before():
    pools = Pools()
    pools.heard({"english": WORKERS}, 0.0)
    assert pools.refusal("english", "universal-streaming-english", 10 * PATIENCE_S) is None


# ---------------------------------------------------------------------------------------------------------------------
# the page


def test_there_is_no_page_before_anything_was_heard():
    assert Pools().page(DEFAULT_MODEL, 0.0) is None


def test_the_page_tells_what_all_workers_of_a_pool_are_together():
    pools = Pools()
    two = {
        "a": WorkerLoad(16, 4, 80, 9, "base", "MIT", ("fr", "de")),
        "b": WorkerLoad(8, 8, 0, 9, "small", "MIT", ("en", "de")),
    }
    pools.heard({"english": {}, "multilang": two}, 5.0, {"multilang": 3})
    page = pools.page(DEFAULT_MODEL, 6.5)
    assert page is not None
    assert (page["age_s"], page["default_speech_model"]) == (1.5, DEFAULT_MODEL)
    assert page["pools"][1] == {
        "pool": "multilang",
        "deployed": True,
        "speech_models": ["universal-streaming-multilingual", "whisper-rt"],
        "models": ["base", "small"],
        "licences": ["MIT"],
        "languages": ["de", "en", "fr"],
        "workers": 2,
        "slots": 24,
        "free": 12,
        "waiting": 3,
        "load": 0.5,
        "backlog_ms": 80,
    }


def test_every_pool_and_every_name_is_on_the_page_whether_served_or_not():
    pools = Pools()
    pools.heard({"english": WORKERS}, 0.0)
    page = pools.page(DEFAULT_MODEL, 0.0)
    assert page is not None
    assert {row["pool"]: row["deployed"] for row in page["pools"]} == {
        pool: pool == "english" for pool in POOLS
    }
    assert [name for row in page["pools"] for name in row["speech_models"]] == list(MODELS)
    absent = next(row for row in page["pools"] if row["pool"] == "u3pro")
    assert (absent["workers"], absent["slots"], absent["load"], absent["languages"]) == (0, 0, None, [])


def test_the_page_calls_deployed_what_is_not_refused():
    pools = Pools()
    pools.heard({"english": WORKERS, "multilang": WORKERS}, 0.0)
    for now in (1.0, PATIENCE_S, PATIENCE_S + 1):
        pools.heard({"english": WORKERS, "multilang": {}}, now)
        page = pools.page(DEFAULT_MODEL, now)
        assert page is not None
        deployed = {row["pool"]: row["deployed"] for row in page["pools"]}
        assert deployed["multilang"] is (pools.refusal("multilang", "whisper-rt", now) is None)


def test_what_is_spare_is_what_nobody_waits_for():
    pools = Pools()
    assert pools.spare("english") == 0
    pools.heard({"english": WORKERS, "multilang": WORKERS}, 0.0, {"english": 5})
    assert (pools.spare("english"), pools.spare("multilang"), pools.spare("u3pro")) == (-1, 4, 0)


# ---------------------------------------------------------------------------------------------------------------------
# room


def test_room_is_the_slots_less_all_offers():
    pools = Pools()
    assert pools.room("english") is None
    pools.heard({"english": WORKERS | {"v": WorkerLoad(8, 8, 0, 0, "m", held=0)}}, 0.0, {}, {"english": 12})
    assert (pools.slots("english"), pools.room("english")) == (24, 12)
    pools.heard({"english": WORKERS}, 60.0, {}, {"english": 18})
    assert pools.room("english") == -2, "two more than there are slots"


def test_a_worker_that_takes_nothing_has_room_for_those_it_holds():
    pools = Pools()
    busy = WorkerLoad(16, 0, 2_000, 0, "m", held=5)
    pools.heard(
        {"english": {"busy": busy, "other": WorkerLoad(4, 1, 0, 0, "m", held=3)}}, 0.0, {}, {"english": 8}
    )
    assert pools.room("english") == 1


def test_while_a_worker_is_restarted_room_is_not_known():
    pools = Pools()
    both = {"a": WorkerLoad(4, 0, 0, 0, "m", held=4), "b": WorkerLoad(4, 0, 0, 0, "m", held=4)}
    pools.heard({"english": both}, 0.0, {}, {"english": 8})
    assert pools.room("english") == 0
    pools.heard({"english": {"a": both["a"]}}, 1.0, {}, {"english": 8})
    assert pools.room("english") is None
    pools.heard({"english": {}}, 2.0, {}, {"english": 8})
    assert pools.room("english") is None
    pools.heard({"english": both}, 3.0, {}, {"english": 8})
    assert pools.room("english") == 0
    pools.heard({"english": {"a": both["a"]}}, 3.5 + PATIENCE_S, {}, {"english": 8})
    assert pools.room("english") == -4, "it does not come back"


def test_the_age_of_the_news():
    pools = Pools()
    assert pools.age_s(9.0) == float("inf")
    pools.heard({}, 5.0)
    assert pools.age_s(6.5) == 1.5
