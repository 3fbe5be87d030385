"""Key terms: how many are found that were missed without them, and whether they harm what does not hold them."""

import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode

from cli import bench_clips, bench_load, bench_names, up
from cli.bench_accuracy import joined, with_silence
from cli.bench_clips import Clip
from cli.bench_machine import tool
from cli.bench_words import normalised, rate
from wire import service
from workers.settings import WorkerSettings

#: Sessions at a time: few enough that load plays no part.
AT_ONCE = 2
GOAL_POINTS = 0.2
MODELS = {
    "english": {"speech_model": "universal-streaming-english"},
    "multilang": {"speech_model": "universal-streaming-multilingual", "language_code": "en"},
}
MOST = 100
METHOD = (
    f"Each clip through the real stack over a real WebSocket in real time ({AT_ONCE} at a time, the protocol's default "
    "silence setting), all formatted finals joined. Names: sentences with rare names, spoken by espeak-ng in two "
    f"voices; without key terms, with {MOST} among which are all that are said, and with {MOST} of which none is. "
    f"Recordings: those of `steno bench accuracy`, without key terms and with {MOST} of which none is said. Recall: "
    "terms found, of those said, in lower case without punctuation; as written: in the capitals of the term. Rates in "
    "percent of words, errors summed over clips whose words are known; changed: with terms against without, over all."
)


def run(quick: bool, pools: Sequence[str], tell: Callable[[str], None]) -> dict[str, Any]:
    """Measure. `quick`: four sentences, and the recordings under 15 s. Raises StackError."""
    tool("jiwer")
    settings = service.load(WorkerSettings)
    sentences = bench_names.SENTENCES[:4] if quick else bench_names.SENTENCES
    names = bench_names.spoken(sentences)
    terms = [own for _, own in sentences] * len(bench_names.VOICES)
    clips = [clip for clip in bench_clips.recordings() if not quick or clip.duration_s < 15]
    said = (*bench_names.SAID, *bench_names.OTHERS)[:MOST]
    none = bench_names.OTHERS[:MOST]
    found = {}
    with up.Stack(pools=pools) as stack:
        for pool in pools:
            given: dict[str, tuple[str, ...]] = {"without": (), "with": said, "others": none}
            heard = {kind: _streamed(stack, pool, names, chosen, tell) for kind, chosen in given.items()}
            real = {kind: _streamed(stack, pool, clips, given[kind], tell) for kind in ("without", "others")}
            found[pool] = {"names": of_names(names, terms, heard), "recordings": of_recordings(clips, real)}
    return {
        "settings": {
            "models": ", ".join(settings.model_of(pool) for pool in pools),
            "precision": settings.precision,
            "voices": ", ".join(bench_names.VOICES),
            "terms": MOST,
        },
        "method": METHOD,
        "goals": {"difference_points": GOAL_POINTS},
        "pools": found,
    }


def _streamed(
    stack: up.Stack, pool: str, clips: Sequence[Clip], terms: Sequence[str], tell: Callable[[str], None]
) -> list[str]:
    parameters = {**MODELS[pool], "format_turns": "true"}
    if terms:
        parameters["keyterms_prompt"] = json.dumps(list(terms))
    url = f"{stack.url}/?{urlencode(parameters)}"
    texts: list[str] = []
    for at in range(0, len(clips), AT_ONCE):
        batch = clips[at : at + AT_ONCE]
        tell(f"{pool}, {len(terms)} terms: {', '.join(clip.name for clip in batch)}")
        load = bench_load.Load(url, tuple(map(with_silence, batch)), stagger_s=0.5)
        texts += [joined(record) for record in bench_load.generate(load, stack.check).records]
    return texts


def of_names(
    clips: Sequence[Clip], terms: Sequence[Sequence[str]], heard: dict[str, list[str]]
) -> dict[str, Any]:
    """Recall and error rates of the sentences, by what was given: nothing, terms that are said, others."""
    said = [clip.reference or "" for clip in clips]
    return {
        "terms_said": sum(map(len, terms)),
        "recall": {kind: recall(terms, texts) for kind, texts in heard.items()},
        "recall_as_written": {kind: recall(terms, texts, True) for kind, texts in heard.items()},
        "wer": {kind: rate(said, texts) for kind, texts in heard.items()},
        "clips": [
            {"name": clip.name, "reference": clip.reference}
            | {kind: texts[number] for kind, texts in heard.items()}
            for number, clip in enumerate(clips)
        ],
    }


def of_recordings(clips: Sequence[Clip], heard: dict[str, list[str]]) -> dict[str, Any]:
    """What terms that nobody says do to recordings."""
    known = [number for number, clip in enumerate(clips) if clip.reference]
    said = [clips[number].reference or "" for number in known]
    wer = {kind: rate(said, [texts[number] for number in known]) for kind, texts in heard.items()}
    return {
        "wer": wer,
        "difference_points": round(wer["others"] - wer["without"], 2),
        "changed": rate(heard["without"], heard["others"]),
        "reference_words": sum(len(normalised(text).split()) for text in said),
        "clips": [
            {"name": clip.name} | {kind: texts[number] for kind, texts in heard.items()}
            for number, clip in enumerate(clips)
        ],
    }


def recall(terms: Sequence[Sequence[str]], texts: Sequence[str], as_written: bool = False) -> float:
    """Terms that are in the text of their clip as whole words, of all, in percent."""
    form = _bare if as_written else normalised
    found = [
        f" {form(term)} " in f" {form(text)} " for own, text in zip(terms, texts, strict=True) for term in own
    ]
    return round(100 * sum(found) / max(1, len(found)), 1)


def _bare(text: str) -> str:
    """Words without the marks around them."""
    return " ".join(word.strip(".,?!;:'\"") for word in text.split())


def shares(pools: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Recall by what was given, for the picture: pool -> kind -> percent."""
    return {pool: dict(found["names"]["recall"]) for pool, found in pools.items()}
