"""`cli.bench_churn`: a small run of the real ingress, and what counts as a leak."""

import pytest

from cli import bench_churn, up
from cli.bench_churn import KINDS, leaks
from wire import service

REST = {
    "ingress_rss_kib": 1,
    "files": 9,
    "unix_sockets": 6,
    "threads": 2,
    "tasks": 7,
    "sessions_open": 0,
    "session_keys": 0,
}


def test_what_is_left_is_named() -> None:
    assert leaks(REST, REST) == []
    assert leaks(REST, REST | {"ingress_rss_kib": 99, "files": 10, "session_keys": 1}) == [
        "files",
        "session_keys",
    ]


def test_the_pool_of_connections_may_grow_as_far_as_it_is_allowed_to() -> None:
    assert leaks(REST, REST | {"unix_sockets": bench_churn.MAX_UNIX_SOCKETS}) == []
    assert leaks(REST, REST | {"unix_sockets": bench_churn.MAX_UNIX_SOCKETS + 1}) == ["unix_sockets"]


@pytest.mark.parametrize("tls", [False, True])
def test_sessions_of_every_kind_leave_nothing_behind(monkeypatch, tls) -> None:
    monkeypatch.setattr(bench_churn, "WARM_UP", 60)
    result = bench_churn.run(120, lambda _: None, tls)
    assert result["leaks"] == [], (result["before"], result["after"])
    assert sum(result["outcomes"].values()) == 120
    ends = {outcome.split(": ")[0]: outcome.split(": ")[1] for outcome in result["outcomes"]}
    assert len(ends) == len(result["outcomes"]), f"one end for each kind: {result['outcomes']}"
    assert ends == {
        "good": "1000",
        "wordless": "1000",
        "vanishing": "vanished",
        "early": "left",
        "nonsense": "3006",
        "too long": "3007",
        "bad parameter": "3006",
        "mu-law": "1000",
        "broken opus": "3006",
        "broken aac": "3006",
    }
    assert ends.keys() == set(KINDS)


def test_a_metric_that_is_missing_is_told() -> None:
    with service.Probe("127.0.0.1", 0) as probe:
        assert bench_churn.value(probe.port, "steno_tasks") >= 0
        with pytest.raises(up.StackFailed, match="tells no steno_nonsense"):
            bench_churn.value(probe.port, "steno_nonsense")


def test_what_does_not_come_true_is_told() -> None:
    with pytest.raises(up.StackFailed, match="keys that outlive their sessions, after 0 s"):
        bench_churn.until(lambda: False, 0, "keys that outlive their sessions")
