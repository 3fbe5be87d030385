"""`cli.bench_accuracy`: rates over normalised words, and a short run of the real stack."""

import numpy as np
import pytest

from cli import bench_accuracy
from cli.bench_accuracy import compared, normalised, rate
from cli.bench_clips import Clip


@pytest.mark.parametrize(
    "text,words",
    [
        ("Hello,  World!", "hello world"),
        ("It's 10 o\u2019clock", "it's 10 o'clock"),
        ("well-known; (so)", "well known so"),
        ("...", ""),
    ],
)
def test_normalised(text, words) -> None:
    assert normalised(text) == words


def test_a_rate_counts_errors_over_reference_words() -> None:
    assert rate(["One two three four."], ["one two THREE five"]) == 25.0
    assert (
        rate(["one two", "three four five six seven eight"], ["one", "three four five six seven eight"])
        == 12.5
    )
    assert rate(["one"], [""]) == 100.0
    assert rate([""], [""]) == 0.0


def test_the_difference_is_over_the_recordings_whose_words_are_known() -> None:
    sound = np.zeros(16_000, "<i2")
    clips = [Clip("known", sound, "one two three four"), Clip("unknown", sound, None)]
    found = compared(clips, ["one two three", "a c"], ["one two three four", "a b"])
    assert (found["streamed_wer"], found["whole_wer"], found["difference_points"]) == (25.0, 0.0, 25.0)
    assert found["streamed_vs_whole_wer"] == pytest.approx(33.33)
    assert found["reference_words"] == 4
    assert found["clips"][1]["streamed_wer"] is None
    assert found["clips"][1]["streamed_vs_whole_wer"] == 50.0


@pytest.mark.weights
def test_the_real_stack_is_measured() -> None:
    result = bench_accuracy.run(True, lambda _: None)
    assert {clip["name"] for clip in result["clips"]} >= {"beckett", "hello_world", "quick_brown_fox"}
    assert all(clip["streamed"] and clip["whole"] for clip in result["clips"])
    assert result["whole_wer"] < 50
