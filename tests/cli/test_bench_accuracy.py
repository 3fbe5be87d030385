"""`cli.bench_accuracy`: rates by recording, by language and over all, and short runs of the real stack."""

import numpy as np
import pytest

from cli import bench_accuracy
from cli.bench_accuracy import compared
from cli.bench_clips import Clip


def test_the_difference_is_over_the_recordings_whose_words_are_known() -> None:
    sound = np.zeros(16_000, "<i2")
    clips = [Clip("known", sound, "one two three four"), Clip("unknown", sound, None)]
    found = compared(clips, ["one two three", "a c"], ["one two three four", "a b"])
    assert (found["streamed_wer"], found["whole_wer"], found["difference_points"]) == (25.0, 0.0, 25.0)
    assert found["streamed_vs_whole_wer"] == pytest.approx(33.33)
    assert found["reference_words"] == 4
    assert found["clips"][1]["streamed_wer"] is None
    assert found["clips"][1]["streamed_vs_whole_wer"] == 50.0


def test_each_language_is_summed_in_its_own_unit() -> None:
    sound = np.zeros(16_000, "<i2")
    clips = [
        Clip("pangrama", sound, "a b c d", "es"),
        Clip("nihao", sound, "\u4f60\u597d\u4e16\u754c", "zh"),
        Clip("unknown", sound, None, "en"),
    ]
    found = compared(clips, ["a b c x", "\u4f60\u597d", "x"], ["a b c d", "\u4f60\u597d\u4e16\u754c", "x"])
    by_language = {one["language"]: one for one in found["languages"]}
    assert [(code, one["unit"], one["streamed_wer"]) for code, one in by_language.items()] == [
        ("es", "word", 25.0),
        ("zh", "character", 50.0),
        ("en", "word", 0.0),
    ]
    assert [one["reference_words"] for one in found["languages"]] == [4, 4, 0]
    assert (found["streamed_wer"], found["recordings"], found["seconds"]) == (37.5, 3, 3.0)
    assert [clip["unit"] for clip in found["clips"]] == ["word", "character", "word"]


@pytest.mark.weights
@pytest.mark.timeout(180)
def test_the_real_stack_is_measured() -> None:
    result = bench_accuracy.run(True, lambda _: None)
    assert {clip["name"] for clip in result["clips"]} >= {"beckett", "hello_world", "quick_brown_fox"}
    assert all(clip["streamed"] and clip["whole"] for clip in result["clips"])
    assert result["whole_wer"] < 50


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.timeout(180)
def test_the_real_stack_is_measured_in_every_language_of_a_pool() -> None:
    result = bench_accuracy.run(True, lambda _: None, "multilang")
    by_language = {one["language"]: one for one in result["languages"]}
    assert set(by_language) == {"en", "es", "fr", "hi", "it", "ja", "pl", "pt", "zh"}
    assert (by_language["ja"]["unit"], by_language["pt"]["unit"]) == ("character", "word")
    # What these weights can do well; the others are told in the document.
    assert all(by_language[code]["whole_wer"] < 50 for code in ("en", "es", "fr", "it", "pt"))
    assert all(by_language[code]["streamed_wer"] < 50 for code in ("en", "es", "fr", "it", "pt"))
    assert result["settings"]["model"] == "whisper-base"
