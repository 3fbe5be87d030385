"""Which nodes have died is told by their silence, and only of those that were heard of."""

from workers.feeders import BACK_S, GAP_S, MISSING_S, Feeders


def test_a_node_that_falls_silent_has_died():
    feeders = Feeders()
    assert feeders.heard({"a": True, "b": True}, 0.0) == set()
    assert feeders.heard({"a": False, "b": True}, MISSING_S / 2) == set()
    assert feeders.heard({"a": False, "b": True}, MISSING_S - 0.1) == set()
    assert feeders.heard({"a": False, "b": True}, MISSING_S) == {"a"}
    assert feeders.heard({"a": True, "b": True}, MISSING_S + 0.5) == set()


def test_after_an_outage_nodes_have_time_to_come_back():
    feeders = Feeders()
    feeders.heard({"a": True}, 0.0)
    assert feeders.heard({"a": False}, 30.0) == set()
    times = [30.0 + GAP_S * number / 2 for number in range(1, 20)]
    found = [at for at in times if feeders.heard({"a": False}, at)]
    assert found[0] == min(at for at in times if at >= 30.0 + BACK_S + MISSING_S)


def test_a_node_that_was_never_heard_of_may_not_know_how_to_tell():
    feeders = Feeders()
    assert feeders.heard({"old": False}, 0.0) == set()
    assert feeders.heard({"old": False}, 1e6) == set()


def test_a_node_without_sessions_is_forgotten():
    feeders = Feeders()
    feeders.heard({"a": True}, 0.0)
    assert feeders.heard({}, 1.0) == set()
    assert feeders.heard({"a": False}, 1e6) == set()
    assert len(feeders._alive_at) == 0
