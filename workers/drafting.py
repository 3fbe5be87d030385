"""Greedy decoding with a draft: the previous hypothesis is verified in one decoder pass, and only what comes after
the first disagreement is decoded token by token. The result is that of plain greedy decoding, at a fraction of its
steps: speculative decoding (Leviathan et al., arXiv 2211.17192, section 2, at temperature 0), the past being the draft.

A row with key terms (`biasing.py`) chooses greedily among the model's tokens and its terms, as if each term were one
token more. What a term is worth is told by a pass of its own, made only where its first token is within reach; a draft
that holds the term is kept like any other.

Rows of one call are independent: each has its own audio, opening, forced prefix, draft, cap and terms.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from workers.biasing import AHEAD_MS, BACK_MS, LONGEST, Path, Terms, due, weighed
from workers.models.decoder import Cache, Cross, EncoderDecoder, Heard, Hint, Opening
from workers.words import repeats

#: A row speaks for a language by itself if it gives it more than this.
OWN_SHARE = 0.5


@dataclass(frozen=True)
class Task:
    """One row. `audio` [n] float32 at 16 kHz; `prefix`: tokens that stand; `draft`: a guess at what follows them;
    `cap`: the most tokens after the prefix (more in a language that takes more, fewer where the model has no room);
    `final`: its words will stand; `doubt`: where the model thinks with more than this probability that nobody speaks,
    it is asked what it would believe without the text that came before; `trust`: what its words must be believed with
    when they are heard in the language that the audio alone speaks for, not in the one that was expected (0: they are
    not heard so); `terms`: what is preferred where the audio supports it."""

    audio: Tensor
    prefix: Sequence[int] = ()
    draft: Sequence[int] = ()
    cap: int = 448
    hint: Hint = field(default_factory=Hint)
    final: bool = False
    doubt: float = 1.0
    trust: float = 0.0
    terms: Terms | None = None


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

    @property
    def trust(self) -> float:
        """How far the model believes the words, by the audio alone where there was doubt: the geometric mean of the
        tokens' probabilities. 0 for no tokens.
        """
        chances = self.probabilities if self.plain is None else self.plain
        return math.exp(float(np.log(np.maximum(chances, 1e-9)).mean())) if len(chances) else 0.0


@dataclass(frozen=True)
class _Choice:
    """What follows a query: a token, or those of a term. Probabilities are those of the model without terms."""

    tokens: tuple[int, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class _Query:
    """The likeliest token after a query; the paths that may be preferred, each with its first token's loss; the query's
    attention [T] to the row's own audio."""

    plain: _Choice
    paths: tuple[tuple[Path, float], ...]
    heard: Tensor


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
        self.fed = 0  # tokens whose queries were made

    @property
    def position(self) -> int:
        """Where the newest token stands; the first of the opening stands at 0."""
        return len(self.given) - 1 + len(self.tokens)

    @property
    def stands(self) -> list[int]:
        """All tokens so far."""
        return [*self.given, *self.tokens]

    @property
    def resting(self) -> bool:
        """Nothing is to be asked any more: all is said, and where it was heard is known."""
        return self.done and self.fed >= self.position

    def parts_at(self, place: int) -> bool:
        """Whether the token here is the last of a prefix: a word that stands."""
        return bool(self.task.prefix) and place == len(self.given) - 1

    def take(self, choice: _Choice, end_token: int) -> None:
        """One greedy choice; of a term, as much as there is room for."""
        for token, probability in zip(choice.tokens, choice.probabilities, strict=True):
            if not self.done:
                self._take(token, probability, end_token)

    def _take(self, token: int, probability: float, end_token: int) -> None:
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


def transcribe(
    model: EncoderDecoder, tasks: Sequence[Task], onward: Tensor | None = None
) -> list[Transcript]:
    """Greedy transcripts of all tasks in one batch. Every task's audio gives at least one frame.

    `onward` [V] bool: tokens that go on with a word. A prefix ends with a word that stands, so none follows it.
    Raises ValueError for a prefix that leaves no room in the model.
    """
    with torch.inference_mode():
        heard = model.listen([task.audio for task in tasks], [task.final for task in tasks])
        told = _decode(model, tasks, heard, onward)
        doubted = [at for at, task in enumerate(tasks) if told[at].opening.silence > task.doubt]
        own = {at: task for at in range(len(tasks)) if (task := _in_its_own(tasks[at], told[at])) is not None}
        led = [at for at in sorted({*doubted, *own}) if tasks[at].hint.before]
        plain = _again(model, {at: _plainly(tasks[at], told[at]) for at in led}, heard, onward)
        others = _again(model, own, heard, onward)
        return [
            _decided(task, one, plain.get(at), others.get(at))
            for at, (task, one) in enumerate(zip(tasks, told, strict=True))
        ]


def _decided(task: Task, told: Transcript, plain: Transcript | None, own: Transcript | None) -> Transcript:
    """What was told, or what was heard in the row's own language: whatever the audio alone makes likelier."""
    if own is not None and own.trust >= max(task.trust, (plain or told).trust):
        first = told.opening
        return replace(own, opening=replace(own.opening, languages=first.languages, silence=first.silence))
    if plain is None or told.opening.silence <= task.doubt:
        return told
    return replace(told, plain=plain.probabilities)


def _plainly(task: Task, told: Transcript) -> Task:
    """The same row, without all that could lead the model."""
    hint = replace(task.hint, before=(), ask=False, language=told.opening.language)
    return replace(task, hint=hint, draft=told.tokens, terms=None)


def _in_its_own(task: Task, told: Transcript) -> Task | None:
    """The same row in the language that it speaks for by itself, if it was told in another one.

    Two words behind a turn in another language are taken for that language, and make little sense in it. Noise speaks
    for no language more than for all others together.
    """
    own, share = next(iter(told.opening.languages.items()), (None, 0.0))
    given = task.hint.language is not None or task.trust == 0
    if given or not told.tokens or own == told.opening.language or share <= OWN_SHARE:
        return None
    return replace(task, hint=replace(task.hint, before=(), ask=False, language=own))


def _again(
    model: EncoderDecoder, tasks: Mapping[int, Task], heard: Heard, onward: Tensor | None
) -> dict[int, Transcript]:
    """Transcripts of these rows of what was heard, for other tasks."""
    if not tasks:
        return {}
    rows = torch.tensor([*tasks])
    own = Heard(heard.states[rows], heard.count[rows], heard.spoken[rows])
    return dict(zip(tasks, _decode(model, [*tasks.values()], own, onward), strict=True))


def _decode(
    model: EncoderDecoder, tasks: Sequence[Task], heard: Heard, onward: Tensor | None
) -> list[Transcript]:
    cross, count = model.cross(heard.states, heard.count), heard.spoken
    openings = model.open([task.hint for task in tasks], cross)
    rows = [_Row(task, opening, model.max_tokens) for task, opening in zip(tasks, openings, strict=True)]
    if full := [len(row.given) for row in rows if row.cap <= 0]:
        raise ValueError(f"{full[0]} tokens stand before the transcript, of {model.max_tokens} in all")
    longest = max(len(row.given) + row.cap for row in rows)
    ahead = LONGEST if any(task.terms for task in tasks) else 0
    cache = model.cache(len(rows), longest + 1 + ahead)
    _verify(model, rows, cache, cross, count, onward)
    running = list(range(len(rows)))  # row of the cache -> row of the batch
    while True:
        left = [at for at, row in enumerate(running) if not rows[row].resting]
        if not left:
            return [row.transcript() for row in rows]
        if 2 * len(left) <= len(running):  # most rows are at rest: carry on with the others only
            chosen = torch.tensor(left)
            cache, cross = Cache(cache.entries[:, chosen]), cross.rows(chosen)
            running, left = [running[at] for at in left], list(range(len(left)))
        _advance(model, [rows[row] for row in running], cache, cross, count[running], onward)


def _verify(
    model: EncoderDecoder,
    rows: Sequence[_Row],
    cache: Cache,
    cross: Cross,
    count: Tensor,
    onward: Tensor | None,
) -> None:
    """One pass over opening, prefix and draft; keeps the draft as far as greedy decoding would say the same."""
    given = [[*row.given, *row.task.draft[: row.cap]] for row in rows]
    width = max(len(tokens) for tokens in given)
    tokens = torch.tensor([line + [0] * (width - len(line)) for line in given])
    positions = torch.arange(width).expand(len(rows), width)
    hidden, attention = _attend(model, tokens, positions, cache, cross)
    asked = [(at, q) for at, row in enumerate(rows) for q in range(len(row.given) - 1, len(given[at]))]
    where = torch.tensor(asked)
    first = torch.tensor([q + 1 == len(rows[at].opening.tokens) for at, q in asked])
    places = [(rows[at].task.terms, q, given[at][q]) for at, q in asked]
    heard = [attention[at, q, : int(count[at])] for at, q in asked]
    parted = [rows[at].parts_at(q) for at, q in asked]
    found = _choose(model, hidden[where[:, 0], where[:, 1]], first, heard, places, _barred(onward, parted))
    for at, row in enumerate(rows):
        queries = {q: query for (of, q), query in zip(asked, found, strict=True) if of == at}
        _walk(
            row,
            given[at],
            queries,
            _weigh(model, at, _met(given[at], queries), cache, cross, row.task.terms),
            model.end_token,
        )
        # Queries that saw only what stands: the prefix, and the draft as far as it was kept.
        row.fed = min(_agreed(given[at], row), len(row.stands) - (not row.done))
        row.attention.append(attention[at, : row.fed, : int(count[at])])


def _walk(
    row: _Row,
    given: Sequence[int],
    queries: Mapping[int, _Query],
    preferred: Mapping[int, _Choice | None],
    end_token: int,
) -> None:
    """Take what follows each query for as long as the draft says the same."""
    for q, query in queries.items():
        if row.done or row.stands != given[: q + 1]:
            continue  # past the end, past the first disagreement, or inside a term that was taken
        if query.paths and q not in preferred:
            return  # the draft holds a term that was not taken: go on without it
        row.take(preferred.get(q) or query.plain, end_token)


def _met(given: Sequence[int], queries: Mapping[int, _Query]) -> dict[int, _Query]:
    """The queries with paths that are met while the draft holds, by place: none inside a term, none behind the first
    token that neither the model nor a term would say."""
    met: dict[int, _Query] = {}
    onward = -1
    for q, query in queries.items():
        if q < onward:
            continue
        if query.paths:
            met[q] = query
        said = [len(path.tokens) for path, _ in query.paths if path.leads(given[q + 1 :])]
        if not said and tuple(given[q + 1 : q + 2]) != query.plain.tokens:
            break
        onward = q + max(said, default=1)
    return met


def _agreed(given: Sequence[int], row: _Row) -> int:
    """How many tokens were in the pass and still stand."""
    n = 0
    for mine, theirs in zip(given, row.stands, strict=False):
        if mine != theirs:
            break
        n += 1
    return n


def _advance(
    model: EncoderDecoder,
    rows: Sequence[_Row],
    cache: Cache,
    cross: Cross,
    count: Tensor,
    onward: Tensor | None,
) -> None:
    """One choice for every row; rows that are done run along, and what they say is dropped."""
    fed = [row.fed if not row.resting else row.position for row in rows]
    newest = [row.stands[start:] for row, start in zip(rows, fed, strict=True)]  # a term's are several
    width = max(map(len, newest))
    tokens = torch.tensor([line + [0] * (width - len(line)) for line in newest])
    positions = torch.tensor(fed)[:, None] + torch.arange(width)
    hidden, attention = _attend(model, tokens, positions, cache, cross)
    last = torch.tensor([len(line) - 1 for line in newest])
    places = [(None if row.done else row.task.terms, row.position, row.stands[-1]) for row in rows]
    each, first = torch.arange(len(rows)), torch.zeros(len(rows)) > 0
    heard = [attention[at, q, : int(count[at])] for at, q in enumerate(last.tolist())]
    barred = _barred(onward, [row.parts_at(row.position) for row in rows])
    queries = _choose(model, hidden[each, last], first, heard, places, barred)
    for at, (row, query) in enumerate(zip(rows, queries, strict=True)):
        if row.resting:
            continue
        row.attention.append(attention[at, : len(newest[at]), : int(count[at])])
        row.fed = len(row.stands)
        if not row.done:
            told = _weigh(model, at, {row.position: query}, cache, cross, row.task.terms)
            row.take(told[row.position] or query.plain, model.end_token)


def _attend(
    model: EncoderDecoder, tokens: Tensor, positions: Tensor, cache: Cache, cross: Cross
) -> tuple[Tensor, Tensor]:
    hidden, attention = model.decode(tokens, positions, cache, cross, need_attention=True)
    return hidden, cast("Tensor", attention)


def _barred(onward: Tensor | None, parted: Sequence[bool]) -> Tensor | None:
    """[K, V] bool: what may not follow each query, or None."""
    if onward is None or not any(parted):
        return None
    return torch.tensor(parted)[:, None] & onward


def _choose(
    model: EncoderDecoder,
    hidden: Tensor,
    first: Tensor,
    heard: Sequence[Tensor],
    places: Sequence[tuple[Terms | None, int, int]],
    barred: Tensor | None,
) -> list[_Query]:
    """What may follow each of `hidden` [K, D]; `places`: the row's terms, the query's position, the token there."""
    scores = model.scores(hidden, first)
    if barred is not None:
        scores = scores.masked_fill(F.pad(barred, (0, scores.shape[-1] - barred.shape[-1])), -torch.inf)
    best, tokens = scores.max(dim=-1)
    probabilities = (best - scores.logsumexp(dim=-1)).exp()
    room = model.max_tokens - LONGEST
    paths = due(scores, best, [(terms if q < room else None, token) for terms, q, token in places])
    found = zip(tokens.tolist(), probabilities.tolist(), paths, heard, strict=True)
    return [_Query(_Choice((token,), (chance,)), tuple(own), seen) for token, chance, own, seen in found]


def _weigh(
    model: EncoderDecoder,
    row: int,
    queries: Mapping[int, _Query],
    cache: Cache,
    cross: Cross,
    terms: Terms | None,
) -> dict[int, _Choice | None]:
    """The term that follows each of a row's `queries` (by place), or None: a pass over the promising paths, each behind
    what stands in the cache up to its query. As it was given goes before other spellings."""
    tried = [(q, path, loss) for q, query in queries.items() for path, loss in query.paths]
    tried = _promising(model, row, tried, cache, cross)
    best: dict[int, tuple[tuple[bool, float], _Choice]] = {}
    if tried and terms is not None:
        scores, attention = _behind(model, row, [(q, path.tokens) for q, path, _ in tried], cache, cross)
        paths, before = [path for _, path, _ in tried], [queries[q].heard for q, _, _ in tried]
        frames = BACK_MS / model.frame_ms, AHEAD_MS / model.frame_ms
        told = weighed(scores, attention[:, : len(before[0])], paths, before, terms.closes)
        for (q, path, loss), behind in zip(tried, told, strict=True):
            gain = path.gain(loss, behind, frames)
            if gain is not None and (q not in best or (path.given, gain) > best[q][0]):
                first = queries[q].plain.probabilities[0] * math.exp(loss)
                best[q] = (path.given, gain), _Choice(path.tokens, (first, *behind.chances))
    return {q: best[q][1] if q in best else None for q in queries}


def _promising(
    model: EncoderDecoder, row: int, tried: Sequence[tuple[int, Path, float]], cache: Cache, cross: Cross
) -> list[tuple[int, Path, float]]:
    """Those whose second token does not rule them out: a short pass, over first tokens that many paths have in common,
    spares most of the long one."""
    begun = {pair: n for n, pair in enumerate(dict.fromkeys((q, path.tokens[0]) for q, path, _ in tried))}
    if len(begun) == len(tried):
        return list(tried)
    scores, _ = _behind(model, row, [(q, (first,)) for q, first in begun], cache, cross)
    rows = torch.tensor([begun[q, path.tokens[0]] for q, path, _ in tried])
    second = torch.tensor([path.tokens[min(1, len(path.tokens) - 1)] for _, path, _ in tried])
    losses = (scores[rows, second] - scores.max(dim=-1).values[rows]).tolist()
    return [one for one, loss in zip(tried, losses, strict=True) if one[1].promises(one[2], loss)]


def _behind(
    model: EncoderDecoder, row: int, tried: Sequence[tuple[int, tuple[int, ...]]], cache: Cache, cross: Cross
) -> tuple[Tensor, Tensor]:
    """Scores [N, V] and attention [N, T] after every token of each path, one path after the other, each put behind its
    query."""
    width = max(len(path) for _, path in tried)
    tokens = torch.tensor([[*path, *[0] * (width - len(path))] for _, path in tried])
    positions = torch.tensor([q + 1 for q, _ in tried])[:, None] + torch.arange(width)
    entries = cache.entries[:, row : row + 1, : int(positions.max()) + 1]
    own = Cache(entries.repeat(1, len(tried), 1, 1, 1, 1))
    hidden, attention = _attend(model, tokens, positions, own, cross.repeated(row, len(tried)))
    said = torch.arange(width) < torch.tensor([len(path) for _, path in tried])[:, None]
    return model.scores(hidden[said], torch.zeros(int(said.sum())) > 0), attention[said]
