"""Error rate streamed in real time, against the same weights on the whole recording, by language."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cli import audio_file, bench_clips, bench_load, bench_pools, bench_worker, up
from cli.bench_clips import Clip
from cli.bench_figures import Record, percentile
from cli.bench_machine import tool
from cli.bench_words import normalised, rate, unit
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
    "chunks, the protocol's default silence setting, no language told), all finals joined; and once whole through the "
    "same weights at the same precision (in pieces cut at pauses where longer than 30 s). Lower case, no punctuation, "
    "one to ten as numerals, other numbers as they are. Errors in words, in characters where the script has no spaces "
    "(ja, zh), summed over the recordings whose words are known; streamed_vs_whole takes the whole one as the "
    "reference, over all recordings."
)


def run(quick: bool, tell: Callable[[str], None], pool: str = "english") -> dict[str, Any]:
    """Measure. `quick`: the recordings under 15 s only. Raises StackError."""
    tool("jiwer")
    settings, bench = service.load(WorkerSettings), bench_pools.of(pool)
    languages = bench_pools.HEARD.get(pool, bench.languages)
    clips = [clip for clip in bench_clips.recordings(languages) if not quick or clip.duration_s < 15]
    tell(f"whole, {len(clips)} recordings")
    threads = settings.threads or max(1, (os.cpu_count() or 1) // 2)
    sounds = [clip.samples.astype(np.float32) / np.float32(32768) for clip in clips]
    model = settings.model_of(pool)
    offline = whole.transcripts(checkpoints.locate(model), sounds, settings.precision, threads)
    streamed: list[str] = []
    late: list[float] = []
    with up.Stack(pools=[pool]) as stack:
        url = bench_worker.endpoint(stack.url, speech_model=bench.speech_model)
        for at in range(0, len(clips), AT_ONCE):
            batch = clips[at : at + AT_ONCE]
            tell(f"streaming {', '.join(clip.name for clip in batch)}")
            load = bench_load.Load(url, tuple(map(with_silence, batch)), stagger_s=0.5)
            records = bench_load.generate(load, stack.check).records
            streamed += [joined(record) for record in records]
            late += [ms for record in records for ms in record.late_ms]
    return {
        "settings": {"pool": pool, "model": model, "precision": settings.precision, "at_once": AT_ONCE},
        "method": METHOD,
        "goals": {"difference_points": GOAL_POINTS},
        "generator_late_p99_ms": percentile(late, 99),
        **compared(clips, streamed, offline),
    }


def with_silence(clip: Clip) -> bench_clips.Talk:
    """The recording, and silence after it."""
    silence = bytes(int(SILENCE_S * audio_file.SAMPLE_RATE) * 2)
    return bench_clips.Talk(clip.samples.tobytes() + silence, ())


def joined(record: Record) -> str:
    """The session's finals in order, each turn once. Raises StackFailed if it failed."""
    if record.error:
        raise up.StackFailed(record.error)
    finals = {turn.order: turn.text for turn in record.turns if turn.final}
    return " ".join(finals[order] for order in sorted(finals))


def compared(clips: Sequence[Clip], streamed: Sequence[str], offline: Sequence[str]) -> dict[str, Any]:
    """Rates in percent, by recording, by language and over all; the difference in points."""
    found = list(zip(clips, streamed, offline, strict=True))
    spoken = dict.fromkeys(clip.language for clip in clips)
    return {
        **_summed(found),
        "languages": [
            {
                "language": code,
                "unit": unit(code),
                **_summed([one for one in found if one[0].language == code]),
            }
            for code in spoken
        ],
        "clips": [_row(*one) for one in found],
    }


def _row(clip: Clip, live: str, rest: str) -> dict[str, Any]:
    code, known = [clip.language], clip.reference
    return {
        "name": clip.name,
        "language": clip.language,
        "unit": unit(clip.language),
        "seconds": round(clip.duration_s, 1),
        "reference": known,
        "streamed": live,
        "whole": rest,
        "streamed_wer": rate([known], [live], code) if known else None,
        "whole_wer": rate([known], [rest], code) if known else None,
        "streamed_vs_whole_wer": rate([rest], [live], code),
    }


def _summed(found: Sequence[tuple[Clip, str, str]]) -> dict[str, Any]:
    """Over several recordings: errors and units of all of them."""
    known = [(clip.reference, live, rest, clip.language) for clip, live, rest in found if clip.reference]
    words, streamed, offline, codes = zip(*known, strict=True) if known else ((), (), (), ())
    live, rest = rate(words, streamed, codes), rate(words, offline, codes)
    every = [clip.language for clip, _, _ in found]
    return {
        "recordings": len(found),
        "seconds": round(sum(clip.duration_s for clip, _, _ in found), 1),
        "streamed_wer": live,
        "whole_wer": rest,
        "difference_points": round(live - rest, 2),
        "streamed_vs_whole_wer": rate([text for _, _, text in found], [text for _, text, _ in found], every),
        "reference_words": sum(len(normalised(a, b).split()) for a, b in zip(words, codes, strict=True)),
    }
