"""`cli.bench_feeder`: a node without clients feeds a worker, and hears of it."""

from cli import bench_feeder, bench_scripted


def test_frames_go_out_and_partials_come_back(redis_url: str) -> None:
    role = bench_scripted.Role("one", most=3, watched=3)
    with (
        bench_scripted.running(redis_url, "fed", role),
        bench_feeder.running(redis_url, "node-1", "fed") as (node, pid),
    ):
        assert pid > 0
        node.grow(1)
        node.grow(3)
        seen = node.measure(2.0)
    assert isinstance(seen, bench_feeder.Fed)
    assert seen.failed == 0
    assert seen.frames > 0
    assert len(seen.late) <= 3 * 42  # 20 a second each, and none before it is due
    assert min(seen.late) >= 0
    assert seen.told == len(seen.outbound) > 0
    assert len(seen.inbound) > 0
    assert min(*seen.appends, *seen.inbound, *seen.outbound) > 0
    assert seen.cores > 0
