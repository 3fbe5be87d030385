"""`cli.bench_keyterms`: recall and rates out of texts, and a short run of the real stack."""

import numpy as np
import pytest

from cli import bench_keyterms
from cli.bench_clips import Clip
from cli.bench_keyterms import of_names, of_recordings, recall, shares

SOUND = np.zeros(16_000, "<i2")


def test_recall_counts_whole_words_in_their_own_clip() -> None:
    terms = [("Kubernetes", "Redis"), ("Satya Nadella",), ()]
    assert recall(terms, ["kubernetes, redistribute", "by Satya Nadella.", "Redis"]) == 66.7
    assert recall(terms, ["", "", ""]) == 0.0
    assert recall([()], [""]) == 0.0


def test_recall_as_written_asks_for_the_capitals() -> None:
    terms = [("PostgreSQL", "pgvector")]
    assert recall(terms, ["postgresql and Pgvector."], True) == 0.0
    assert recall(terms, ['"PostgreSQL", pgvector!'], True) == 100.0


def test_names_are_told_by_what_was_given() -> None:
    clips = [Clip("a", SOUND, "run Redis now"), Clip("b", SOUND, "ask Anna")]
    heard = {"without": ["run radish now", "ask Anna"], "with": ["run redis now", "ask Anna"]}
    found = of_names(clips, [("Redis",), ("Anna",)], heard)
    assert found["terms_said"] == 2
    assert found["recall"] == {"without": 50.0, "with": 100.0}
    assert found["recall_as_written"] == {"without": 50.0, "with": 50.0}
    assert found["wer"] == {"without": 20.0, "with": 0.0}
    assert found["clips"][0] == {
        "name": "a",
        "reference": "run Redis now",
        "without": "run radish now",
        "with": "run redis now",
    }
    assert shares({"english": {"names": found}}) == {"english": {"without": 50.0, "with": 100.0}}


def test_recordings_without_known_words_count_for_what_changed() -> None:
    clips = [Clip("known", SOUND, "one two three four"), Clip("unknown", SOUND, None)]
    heard = {"without": ["one two three four", "a b"], "others": ["one two three five", "a c"]}
    found = of_recordings(clips, heard)
    assert found["wer"] == {"without": 0.0, "others": 25.0}
    assert found["difference_points"] == 25.0
    assert found["changed"] == pytest.approx(33.33)
    assert found["reference_words"] == 4
    assert found["clips"][1] == {"name": "unknown", "without": "a b", "others": "a c"}


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_real_stack_is_measured(espeak: str) -> None:
    assert espeak
    result = bench_keyterms.run(True, ["english"], lambda _: None)
    found = result["pools"]["english"]
    assert found["names"]["recall"]["with"] > found["names"]["recall"]["without"] + 20
    assert found["recordings"]["difference_points"] <= result["goals"]["difference_points"]
