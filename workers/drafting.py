"""Greedy decoding with a draft: the previous hypothesis is verified in one decoder pass, and only what comes after
the first disagreement is decoded token by token. The result is that of plain greedy decoding, at a fraction of its
steps: speculative decoding (Leviathan et al., arXiv 2211.17192, section 2, at temperature 0), the past being the draft.

Rows of one call are independent: each has its own audio, opening, forced prefix, draft and cap.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.models.decoder import Cache, Cross, EncoderDecoder, Heard, Hint, Opening
from workers.words import repeats


@dataclass(frozen=True)
class Task:
    """One row. `audio` [n] float32 at 16 kHz; `prefix`: tokens that stand; `draft`: a guess at what follows them;
    `cap`: the most tokens after the prefix (more in a language that takes more, fewer where the model has no room);
    `final`: its words will stand; `doubt`: where the model thinks with more than this probability that nobody speaks,
    it is asked what it would believe without the text that came before."""

    audio: Tensor
    prefix: Sequence[int] = ()
    draft: Sequence[int] = ()
    cap: int = 448
    hint: Hint = field(default_factory=Hint)
    final: bool = False
    doubt: float = 1.0


@dataclass(frozen=True)
class Transcript:
    """What follows the prefix. `probabilities` [len(tokens)]; `attention` [len(prefix) + len(tokens), frames], the
    alignment heads' summed cross-attention of every token; `end` is the probability of the end token after the last
    (0 where the cap or the repetition guard ended it); `looped`: the repetition guard did; `plain`: probabilities of
    what the audio alone gives, where there was doubt whether it is speech: a text before it makes itself likely."""

    tokens: list[int]
    probabilities: NDArray[np.float32]
    attention: NDArray[np.float32]
    end: float
    opening: Opening
    looped: bool = False
    plain: NDArray[np.float32] | None = None


class _Row:
    """A row on its way: what it has, and what its queries said."""

    def __init__(self, task: Task, opening: Opening, room: int) -> None:
        self.task = task
        self.opening = opening
        self.given = [*opening.tokens, *task.prefix]  # what stands before the first token
        self.cap = min(round(task.cap * opening.pace), room - len(self.given))
        self.tokens: list[int] = []
        self.probabilities: list[float] = []
        self.attention: list[Tensor] = []
        self.end = 0.0
        self.looped = False
        self.done = self.cap <= 0

    @property
    def position(self) -> int:
        """Where the newest token stands; the first of the opening stands at 0."""
        return len(self.given) - 1 + len(self.tokens)

    def take(self, token: int, probability: float, end_token: int) -> None:
        """One greedy choice."""
        if token == end_token:
            self.end, self.done = probability, True
            return
        self.tokens.append(token)
        self.probabilities.append(probability)
        if (start := repeats(self.tokens)) is not None:
            del self.tokens[start:], self.probabilities[start:]
            self.done = self.looped = True
        elif len(self.tokens) >= self.cap:
            self.done = True

    def transcript(self) -> Transcript:
        # The query that stands at a token's own position looks at what comes next; the one before it looked at the
        # token itself. So the rows of attention that tell where the tokens are end one before the newest position.
        first = len(self.opening.tokens) - 1
        attention = torch.cat(self.attention)[first : self.position].float().numpy()
        probabilities = np.asarray(self.probabilities, dtype=np.float32)
        return Transcript(self.tokens, probabilities, attention, self.end, self.opening, self.looped)


def transcribe(model: EncoderDecoder, tasks: Sequence[Task]) -> list[Transcript]:
    """Greedy transcripts of all tasks in one batch. Every task's audio gives at least one frame.

    Raises ValueError for a prefix that leaves no room in the model.
    """
    with torch.inference_mode():
        heard = model.listen([task.audio for task in tasks], [task.final for task in tasks])
        told = _decode(model, tasks, heard)
        doubtful = [
            at
            for at, (task, one) in enumerate(zip(tasks, told, strict=True))
            if task.hint.before and one.opening.silence > task.doubt
        ]
        for at, plain in zip(doubtful, _without_before(model, tasks, told, heard, doubtful), strict=True):
            told[at] = replace(told[at], plain=plain.probabilities)
        return told


def _without_before(
    model: EncoderDecoder, tasks: Sequence[Task], told: Sequence[Transcript], heard: Heard, rows: list[int]
) -> list[Transcript]:
    """Transcripts of these rows by their audio alone."""
    if not rows:
        return []
    hints = [replace(tasks[at].hint, before=(), ask=False, language=told[at].opening.language) for at in rows]
    alone = [
        replace(tasks[at], hint=hint, draft=told[at].tokens) for at, hint in zip(rows, hints, strict=True)
    ]
    chosen = torch.tensor(rows)
    return _decode(model, alone, Heard(heard.states[chosen], heard.count[chosen], heard.spoken[chosen]))


def _decode(model: EncoderDecoder, tasks: Sequence[Task], heard: Heard) -> list[Transcript]:
    cross, count = model.cross(heard.states, heard.count), heard.spoken
    openings = model.open([task.hint for task in tasks], cross)
    rows = [_Row(task, opening, model.max_tokens) for task, opening in zip(tasks, openings, strict=True)]
    if full := [len(row.given) for row in rows if row.cap <= 0]:
        raise ValueError(f"{full[0]} tokens stand before the transcript, of {model.max_tokens} in all")
    longest = max(len(row.given) + row.cap for row in rows)
    cache = model.cache(len(rows), longest + 1)
    _verify(model, rows, cache, cross, count)
    running = list(range(len(rows)))  # row of the cache -> row of the batch
    while True:
        left = [at for at, row in enumerate(running) if not rows[row].done]
        if not left:
            return [row.transcript() for row in rows]
        if 2 * len(left) <= len(running):  # most rows are done: carry on with the others only
            chosen = torch.tensor(left)
            cache, cross = Cache(cache.entries[:, chosen]), cross.rows(chosen)
            running, left = [running[at] for at in left], list(range(len(left)))
        _advance(model, [rows[row] for row in running], cache, cross, count[running])


def _verify(model: EncoderDecoder, rows: Sequence[_Row], cache: Cache, cross: Cross, count: Tensor) -> None:
    """One pass over opening, prefix and draft; keeps the draft as far as greedy decoding would say the same."""
    given = [[*row.given, *row.task.draft[: row.cap]] for row in rows]
    width = max(len(tokens) for tokens in given)
    tokens = torch.tensor([line + [0] * (width - len(line)) for line in given])
    positions = torch.arange(width).expand(len(rows), width)
    hidden, attention = _attend(model, tokens, positions, cache, cross)
    asked = [(at, q) for at, row in enumerate(rows) for q in range(len(row.given) - 1, len(given[at]))]
    where = torch.tensor(asked)
    first = torch.tensor([q + 1 == len(rows[at].opening.tokens) for at, q in asked])
    choices = _choose(model, hidden[where[:, 0], where[:, 1]], first)
    for (at, q), (token, probability) in zip(asked, choices, strict=True):
        row = rows[at]
        stands = not row.tokens or (row.position == q and row.tokens[-1] == given[at][q])
        if stands and not row.done:  # else: past its end, or past the first disagreement
            row.take(token, probability, model.end_token)
    for at, row in enumerate(rows):
        # Queries that saw only what stands: the prefix, and the draft as far as it was kept.
        kept = _agreed(given[at], row)
        row.attention.append(attention[at, :kept, : int(count[at])])


def _agreed(given: Sequence[int], row: _Row) -> int:
    """How many tokens were in the pass and still stand."""
    stand = [*row.given, *row.tokens]
    n = 0
    for mine, theirs in zip(given, stand, strict=False):
        if mine != theirs:
            break
        n += 1
    return n


def _advance(model: EncoderDecoder, rows: Sequence[_Row], cache: Cache, cross: Cross, count: Tensor) -> None:
    """One token for every row; rows that are done run along, and what they say is dropped."""
    newest = torch.tensor([[row.tokens[-1] if row.tokens else 0] for row in rows])
    positions = torch.tensor([[row.position] for row in rows])
    hidden, attention = _attend(model, newest, positions, cache, cross)
    choices = _choose(model, hidden[:, 0], torch.zeros(len(rows)) > 0)
    for at, (row, choice) in enumerate(zip(rows, choices, strict=True)):
        if not row.done:
            row.attention.append(attention[at, :, : int(count[at])])
            row.take(*choice, model.end_token)


def _attend(
    model: EncoderDecoder, tokens: Tensor, positions: Tensor, cache: Cache, cross: Cross
) -> tuple[Tensor, Tensor]:
    hidden, attention = model.decode(tokens, positions, cache, cross, need_attention=True)
    return hidden, cast("Tensor", attention)


def _choose(model: EncoderDecoder, hidden: Tensor, first: Tensor) -> list[tuple[int, float]]:
    """The likeliest next token after each of `hidden` [K, D], and its probability."""
    scores = model.scores(hidden, first)
    best, tokens = scores.max(dim=-1)
    probabilities = (best - scores.logsumexp(dim=-1)).exp()
    return list(zip(tokens.tolist(), probabilities.tolist(), strict=True))
