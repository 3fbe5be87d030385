"""`cli.bench_worker`: what makes a level hold, and a short run of the real stack."""

import pytest

from cli import bench_worker
from cli.bench_figures import Answer
from cli.bench_pools import BENCHES
from cli.bench_worker import of_rounds


def answer(end_s: float, final_ms: float | None = 500.0, gap_ms: float = 600.0) -> Answer:
    return Answer(end_s, final_ms, final_ms, 500.0, (gap_ms,))


def judged(*answers: Answer, late: float = 1.0, errors: tuple[str, ...] = (), end_ms: float = 300):
    return bench_worker.judged(2, [answers, answers], [late] * 10, errors, [200, end_ms])


def test_a_level_that_answers_in_time_holds() -> None:
    level = judged(*(answer(n) for n in range(20)))
    assert level["holds"]
    assert (level["phrases"], level["unanswered"], level["final_p95_ms"]) == (40, 0, 500.0)
    assert level["growth_ms"] == pytest.approx(0)


@pytest.mark.parametrize(
    "level,reason",
    [
        (judged(*(answer(n, final_ms=1_100) for n in range(9))), "finals too late"),
        (judged(*(answer(n, gap_ms=1_100) for n in range(9))), "partials too rare"),
        (judged(*(answer(n, final_ms=100 + 80 * n) for n in range(9))), "delay grows"),
        (judged(*(answer(n) for n in range(9)), answer(9, final_ms=None)), "phrases without a final"),
        (judged(*(answer(n) for n in range(9)), late=80), "the generator itself was late"),
        (judged(*(answer(n) for n in range(9)), errors=("refused",)), "sessions failed"),
        (judged(*(answer(n) for n in range(9)), end_ms=5_001), "ends too late"),
        (judged(), "nothing was measured"),
    ],
)
def test_what_makes_a_level_fall_short(level, reason) -> None:
    assert level["falls_short"] == [reason]
    assert not level["holds"]


def test_each_pool_has_goals_of_its_own() -> None:
    slow = [[answer(n, final_ms=1_400, gap_ms=9_000) for n in range(9)]]
    assert bench_worker.judged(1, slow, [1.0], (), (), BENCHES["multilang"])["holds"]
    assert bench_worker.judged(1, slow, [1.0], ())["falls_short"] == ["finals too late", "partials too rare"]


def test_parameters_reach_the_address() -> None:
    asked = bench_worker.endpoint("ws://localhost:1", a=0.4, b=160, speech_model="whisper-rt")
    assert asked == "ws://localhost:1/?a=0.4&b=160&speech_model=whisper-rt"


@pytest.mark.weights
def test_the_real_stack_is_measured() -> None:
    result = bench_worker.run([2], 3, lambda _: None)
    (level,) = result["levels"]
    assert level["errors"] == []
    assert level["phrases"] >= 2
    assert level["final_p50_ms"] > 160  # no final can come before the shortest silence that ends a turn
    assert level["cores"]["english"] > 0
    assert level["end_max_ms"] > 0
    assert result["holds"] in (0, 2)


@pytest.mark.weights
@pytest.mark.timeout(120)
def test_another_pool_is_measured_alone_and_in_its_languages() -> None:
    result = bench_worker.run([1], 4, lambda _: None, pool="multilang")
    (level,) = result["levels"]
    assert level["errors"] == []
    assert level["final_p50_ms"] > 160
    assert level["cores"]["multilang"] > 0
    assert "english" not in level["cores"]
    assert result["settings"]["speech_model"] == "universal-streaming-multilingual"
    assert result["goals"] == {"sessions": 4, "final_p95_ms": 1_500.0, "gap_p95_ms": None}


def test_a_level_of_several_rounds_is_judged_by_its_medians() -> None:
    def one(final_ms: float, **changed: object) -> dict[str, object]:
        said = dict.fromkeys(("final_p95_ms", "gap_p95_ms"), final_ms)
        fine = {
            "errors": [],
            "unanswered": 0,
            "end_max_ms": 5.0,
            "growth_ms": 0.0,
            "generator_late_p99_ms": 1.0,
        }
        return {**fine, **said, **changed}

    bench = BENCHES["english"]
    found = of_rounds([one(900.0), one(1_200.0), one(800.0)], bench)
    assert (found["final_p95_ms"], found["holds"]) == (900.0, True)
    found = of_rounds([one(900.0), one(800.0, unanswered=1, errors=["lost"]), one(900.0)], bench)
    assert found["falls_short"] == ["sessions failed", "phrases without a final"]
