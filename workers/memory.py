"""What a slot must keep of its past, so that another worker goes on after a turn as this one would have.

Whatever a re-decoder does follows from the audio, from the words that stand before the open turn, and from where its
voice detector was. So little is small enough to go into a checkpoint (some 2 kB), and with it the next worker needs to
hear nothing twice: it takes the audio from `start` on, listens from `heard` on, and decodes what the first would have.

    start            b = heard         cut (the turn ended here)
      |-- context words --|----|--------|------- what is still to come
      |-- audio to be given again ------|

Positions are samples of the session's audio. A memory of another model, or one whose audio is gone, still tells what
was said and in which language.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.recognizer import Memory, SlotOptions
from workers.window import SAMPLES_PER_MS, Window
from workers.words import Word

#: Hops whose state is kept: a turn may be ended so long ago (3 s).
KEPT_HOPS = 96


@dataclass(frozen=True)
class Hop:
    """Where the voice detector was when it had heard up to `heard`; `state` is its row, float32."""

    heard: int
    speaking: bool
    onset: int
    state: NDArray[np.float32]


def remember(window: Window, model: str, hop: Hop | None) -> Memory:
    """Right after `window.finish`. `hop`: the last one that ended by then; None: it is not known any more."""
    known: Memory = {
        "model": model,
        "said": [list(one) for one in window.said],
        "before": window.belief.before,
    }
    known["cut_ms"] = window.ms(window.turn_from)
    if hop is None:
        return known
    origin, count = window.origin_ms * SAMPLES_PER_MS, window.context
    words = window.prefix[:count]
    return known | {
        "start": origin + window.start,
        "cut": origin + window.turn_from,
        "heard": origin + hop.heard,
        "onset": origin + max(hop.onset, window.turn_from),
        "speaking": hop.speaking,
        "vad": hop.state.tobytes(),
        "speech": [
            [origin + begin, origin + min(end, hop.heard)]
            for begin, end in window.speech
            if begin < hop.heard
        ],
        "words": [[word.text, word.start_ms, word.end_ms, word.confidence, word.tokens] for word in words],
        "tokens": window.prefix_tokens[: sum(word.tokens for word in words)],
    }


def remember_silence(window: Window, model: str, lead: int, hop: Hop) -> Memory:
    """In silence, right after `hop`, with no speech that is still to be dealt with; a next turn may begin with `lead`
    samples of what was heard. What was said before is not kept."""
    origin, start = window.origin_ms * SAMPLES_PER_MS, max(window.start, hop.heard - lead)
    return {
        "model": model,
        "said": [],
        "before": window.belief.before,
        "cut_ms": window.ms(hop.heard),
        "start": origin + start,
        "cut": origin + max(window.turn_from, start),
        "heard": origin + hop.heard,
        "onset": origin + hop.heard,
        "speaking": False,
        "vad": hop.state.tobytes(),
        "speech": [],
        "words": [],
        "tokens": [],
    }


def recall(
    memory: Mapping[str, Any], model: str, origin_ms: int, options: SlotOptions
) -> tuple[Window, NDArray[np.float32] | None]:
    """The window of a session that goes on, its audio to be given from `origin_ms` on, and the voice detector's row.

    None: the audio does not reach back far enough, or another model listened; then all that is given is heard. Raises
    KeyError, TypeError or ValueError for what is no memory.
    """
    window = Window(origin_ms=origin_ms, options=options)
    window.said = [(str(code), str(text)) for code, text in memory["said"]]
    window.said_to_ms = int(memory["cut_ms"])
    window.belief.before = memory["before"]
    origin = origin_ms * SAMPLES_PER_MS
    if memory["model"] != model or "vad" not in memory or min(memory["start"], memory["heard"]) < origin:
        return window, None
    window.begin = int(memory["start"]) - origin
    window.turn_from = window.decoded_to = int(memory["cut"]) - origin
    window.heard, window.onset = int(memory["heard"]) - origin, int(memory["onset"]) - origin
    window.speaking = bool(memory["speaking"])
    window.speech = [(int(begin) - origin, int(end) - origin) for begin, end in memory["speech"]]
    window.prefix = [Word(*fields) for fields in memory["words"]]
    window.prefix_tokens = [int(token) for token in memory["tokens"]]
    window.context = len(window.prefix)
    return window, np.frombuffer(memory["vad"], np.float32)
