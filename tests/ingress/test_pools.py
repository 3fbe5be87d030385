"""Which pools are served: known, not known yet, gone for a moment, gone."""

from ingress.pools import PATIENCE_S, Pools
from wire.entries import WorkerLoad
from wire.errors import Close

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
