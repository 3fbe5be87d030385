"""Word error rate streamed in real time, against the same weights on the whole recording."""

import os
import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cli import audio_file, bench_clips, bench_load, up
from cli.bench_clips import Clip
from cli.bench_figures import Record
from cli.bench_machine import tool
from wire import service
from workers import checkpoints, whole
from workers.settings import WorkerSettings

#: Recordings streamed at a time: few enough that load plays no part.
AT_ONCE = 2
#: After the recording, as a microphone would go on, so that the last turn ends by silence.
SILENCE_S = 1.6
GOAL_POINTS = 1.0
METHOD = (
    f"Each recording once through the real stack over a real WebSocket in real time ({AT_ONCE} at a time, 50 ms "
    "chunks, the protocol's default silence setting), all finals joined; and once whole through the same weights at "
    "the same precision (in pieces cut at pauses where longer than 30 s). Lower case, no punctuation, numbers as they "
    "are. Errors are summed over the recordings whose words are known; streamed_vs_whole takes the whole one as the "
    "reference, over all recordings."
)
_NO_PUNCTUATION = str.maketrans({mark: " " for mark in string.punctuation if mark != "'"} | {"\u2019": "'"})


def run(quick: bool, tell: Callable[[str], None]) -> dict[str, Any]:
    """Measure. `quick`: the recordings under 15 s only. Raises StackError."""
    tool("jiwer")
    settings = service.load(WorkerSettings)
    clips = [clip for clip in bench_clips.recordings() if not quick or clip.duration_s < 15]
    tell(f"whole, {len(clips)} recordings")
    threads = settings.threads or max(1, (os.cpu_count() or 1) // 2)
    sounds = [clip.samples.astype(np.float32) / np.float32(32768) for clip in clips]
    model = settings.model_of("english")
    offline = whole.transcripts(checkpoints.locate(model), sounds, settings.precision, threads)
    streamed = []
    with up.Stack() as stack:
        for at in range(0, len(clips), AT_ONCE):
            batch = clips[at : at + AT_ONCE]
            tell(f"streaming {', '.join(clip.name for clip in batch)}")
            load = bench_load.Load(stack.url, tuple(map(spoken, batch)), stagger_s=0.5)
            streamed += [transcript(record) for record in bench_load.generate(load, stack.check).records]
    return {
        "settings": {"model": model, "precision": settings.precision, "at_once": AT_ONCE},
        "method": METHOD,
        "goals": {"difference_points": GOAL_POINTS},
        **compared(clips, streamed, offline),
    }


def spoken(clip: Clip) -> bench_clips.Talk:
    """The recording, and the silence after it."""
    silence = bytes(int(SILENCE_S * audio_file.SAMPLE_RATE) * 2)
    return bench_clips.Talk(clip.samples.tobytes() + silence, ())


def transcript(record: Record) -> str:
    """The session's finals in order, each turn once. Raises StackFailed if it failed."""
    if record.error:
        raise up.StackFailed(record.error)
    finals = {turn.order: turn.text for turn in record.turns if turn.final}
    return " ".join(finals[order] for order in sorted(finals))


def normalised(text: str) -> str:
    """Lower case, no punctuation but apostrophes, single spaces."""
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())


def compared(clips: Sequence[Clip], streamed: Sequence[str], offline: Sequence[str]) -> dict[str, Any]:
    """Rates in percent, by recording and over all; the difference in points."""
    rows = [
        {
            "name": clip.name,
            "seconds": round(clip.duration_s, 1),
            "reference": clip.reference,
            "streamed": live,
            "whole": rest,
            "streamed_wer": rate([clip.reference], [live]) if clip.reference else None,
            "whole_wer": rate([clip.reference], [rest]) if clip.reference else None,
            "streamed_vs_whole_wer": rate([rest], [live]),
        }
        for clip, live, rest in zip(clips, streamed, offline, strict=True)
    ]
    known = [number for number, clip in enumerate(clips) if clip.reference]
    words = [clips[number].reference or "" for number in known]
    live = rate(words, [streamed[number] for number in known])
    rest = rate(words, [offline[number] for number in known])
    return {
        "streamed_wer": live,
        "whole_wer": rest,
        "difference_points": round(live - rest, 2),
        "streamed_vs_whole_wer": rate(list(offline), list(streamed)),
        "reference_words": sum(len(normalised(text).split()) for text in words),
        "clips": rows,
    }


def rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Errors over words in percent, both normalised; 0 where no reference has a word."""
    pairs = [(normalised(a), normalised(b)) for a, b in zip(references, hypotheses, strict=True)]
    pairs = [pair for pair in pairs if pair[0]]
    if not pairs:
        return 0.0
    return round(100 * float(tool("jiwer").wer([a for a, _ in pairs], [b for _, b in pairs])), 2)
