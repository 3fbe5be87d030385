"""`cli.bench_load`: clients in a process of their own, against a real WebSocket server."""

import time

from cli.bench_clips import Talk
from cli.bench_load import CHUNK_MS, FORCE, Load, generate, generate_all, run


def silence(ms: int, *phrases: tuple[int, int]) -> Talk:
    return Talk(bytes(32 * ms), phrases)


def test_each_session_sends_its_audio_in_real_time_and_tells_what_it_heard(partner, scripts) -> None:
    server = partner(scripts.two_turns)
    began_s, calls = time.monotonic(), []
    outcome = generate(
        Load(server.url, (silence(400, (100, 300)),), stagger_s=0), lambda: calls.append(1), every_s=0.05
    )
    assert calls
    (record,) = outcome.records
    assert record.error is None
    assert len(server.audio) == 32 * 400
    assert set(server.chunk_bytes) == {32 * CHUNK_MS}
    assert len(record.sent_s) == len(record.late_ms) == 400 // CHUNK_MS
    assert record.sent_s[-1] - record.sent_s[0] > 0.3
    assert min(record.late_ms) >= 0
    assert record.sent_s[0] > began_s
    assert [turn.final for turn in record.turns] == [False, False, True, True]
    assert record.turns[2].text == "Hello world."
    assert (record.turns[2].first_start_ms, record.turns[2].last_end_ms) == (100, 500)
    assert record.begin_ms is not None
    assert outcome.cpu >= 0


def test_loads_run_at_the_same_time_each_in_a_process_of_its_own(partner, scripts) -> None:
    servers = [partner(scripts.two_turns) for _ in range(2)]
    loads = [Load(server.url, (silence(400),), stagger_s=0, chunk_ms=100) for server in servers]
    outcome = generate_all(loads, lambda: None, every_s=0.05)
    assert [record.error for record in outcome.records] == [None, None]
    assert [len(server.audio) for server in servers] == [32 * 400] * 2
    assert all(set(server.chunk_bytes) == {32 * 100} for server in servers)
    (one, other) = (record.sent_s for record in outcome.records)
    assert [len(one), len(other)] == [4, 4]


def test_endpoints_are_forced_after_each_phrase(partner, scripts) -> None:
    orders: list[str] = []

    def script(partner, connection) -> None:
        partner.begin(connection)
        for message in connection:
            if isinstance(message, str):
                orders.append(message)
                if "Terminate" in message:
                    break
        partner.end(connection)

    load = Load(partner(script).url, (silence(700, (0, 100), (300, 400)),), stagger_s=0, force=True)
    (record,) = run(load).records
    assert orders == [FORCE, FORCE, '{"type": "Terminate"}']
    assert len(record.forced_s) == 2


def test_a_refused_session_is_told_and_harms_no_other(partner, scripts) -> None:
    load = Load(partner(scripts.refusal).url, (silence(100), silence(100)), stagger_s=0)
    records = run(load).records
    assert all(record.error and "3006" in record.error for record in records)
    assert all(record.code == 3006 and record.failed_ms and record.begin_ms is None for record in records)
