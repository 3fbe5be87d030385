"""Key terms: words that a session expects, preferred where the audio supports them.

Contextual biasing by shallow fusion (Zhao et al. 2019, "Shallow-fusion end-to-end contextual biasing"; Le et al.,
arXiv 2104.02194): each token of a term gets a bonus. A beam search takes the bonus back when a term's path is left
before its end; a greedy one cannot go back. So here a term is weighed whole, before its first token is said: in one
pass behind what stands, as a draft is verified (`drafting.py`). It is said if what its tokens lose against the model's
own choices is less than the bonus of them all, the word is then likely to be over, and the model listens to one place
after another meanwhile. So half a term is never said.

    Vocabulary   of a model: text -> paths of tokens; where a word may begin and end
    Terms        of a session: the paths of all terms, in all spellings that a transcript may use
    due          the paths that are worth weighing after a query
    weighed      what the model says of them; Path.gain: what they are worth
"""

import itertools
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from workers.words import spaceless

#: Bonus of each token of a term, in nats.
BONUS = 2.0
#: No token of a term may be less likely than the likeliest one by more than this, in nats.
REACH = 8.0
#: From token to token of a term, the place that is listened to goes back by no more than this, and ahead by no more.
BACK_MS, AHEAD_MS = 150, 1_000
#: A longer term is left out: it would cost much, and one of so many words is a sentence.
LONGEST_CHARACTERS, LONGEST = 64, 24
#: Of all terms of a session, spellings included.
MOST_TOKENS = 4_096
#: Paths weighed after one query at most, the likeliest first tokens before the others.
MOST_AT_ONCE = 32


@dataclass(frozen=True)
class Path:
    """One spelling of a term. `given`: as the session wrote it; `spaced`: begins with a space; `open`: its last
    character joins no word, so that anything may follow."""

    tokens: tuple[int, ...]
    given: bool = True
    spaced: bool = True
    open: bool = False

    def leads(self, tokens: Sequence[int]) -> bool:
        """Whether `tokens` begin with the path."""
        return tuple(tokens[: len(self.tokens)]) == self.tokens

    def promises(self, first: float, second: float) -> bool:
        """Whether it may be worth something, by what its first two tokens lose."""
        alone = len(self.tokens) == 1
        return alone or (second >= -REACH and first + second + BONUS * len(self.tokens) > 0)

    def gain(self, loss: float, behind: "Weighed", frames: tuple[float, float]) -> float | None:
        """What the path is worth, in nats: `loss` that of its first token, `frames` how far attention may go back and
        ahead. None: it is out of reach, its sound is not there, or the model's own choice is worth more."""
        losses = (loss, *behind.losses)
        gain = sum(losses) + behind.ended + BONUS * len(self.tokens)
        back, ahead = frames
        sane = all(-back <= after - before <= ahead for before, after in itertools.pairwise(behind.heard))
        return gain if gain > 0 and min(losses) >= -REACH and sane else None


@dataclass(frozen=True)
class Weighed:
    """What the model says of a path of n tokens: `losses` [n - 1] against the likeliest tokens and probabilities
    `chances` [n - 1] behind its first one; `ended`, the log-probability that the word is over then; `heard` [n], the
    frame where each token is listened for."""

    losses: tuple[float, ...]
    chances: tuple[float, ...]
    ended: float
    heard: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Terms:
    """All paths of a session: `first` [P] their first tokens; `least` [P] the most that a first token may lose."""

    paths: tuple[Path, ...]
    first: Tensor
    least: Tensor
    vocabulary: "Vocabulary"

    @classmethod
    def of(cls, paths: Sequence[Path], vocabulary: "Vocabulary") -> Self:
        """Of at least one path."""
        first = torch.tensor([path.tokens[0] for path in paths])
        least = torch.tensor([max(-REACH, -BONUS * len(path.tokens)) for path in paths])
        return cls(tuple(paths), first, least, vocabulary)

    @property
    def closes(self) -> Tensor:
        """[V] bool: a word may be over before this token."""
        return self.vocabulary.closes


class Vocabulary:
    """What biasing knows of a model's tokens: `pieces` spell them (`bpe.pieces`), `encode` finds those of a text."""

    def __init__(
        self, pieces: Sequence[bytes], encode: Callable[[str], Sequence[int]], end_token: int
    ) -> None:
        self._encode, self._pieces = encode, pieces
        texts = [piece.decode(errors="ignore") for piece in pieces]
        #: [V] bool: a word may be over before this token.
        self.closes = torch.tensor([not _letter(text[:1]) for text in texts])
        self.closes[end_token] = True
        #: Whether a word may begin after this token, without a space.
        self.opens = [not _letter(text[-1:]) for text in texts]

    def compile(self, terms: Sequence[str]) -> Terms | None:
        """The paths of `terms`, the first terms before the others where there are too many; None without any."""
        paths: dict[tuple[int, ...], Path] = {}
        spellings = itertools.chain.from_iterable(map(_spellings, terms))
        left = MOST_TOKENS
        for text, given in spellings:
            for spaced in (True, False):
                tokens = self._spelled(f" {text}" if spaced else text)
                if tokens and len(tokens) <= min(LONGEST, left) and tokens not in paths:
                    paths[tokens] = Path(tokens, given, spaced, open=not _letter(text[-1:]))
                    left -= len(tokens)
        return Terms.of(tuple(paths.values()), self) if paths else None

    def _spelled(self, text: str) -> tuple[int, ...]:
        """The tokens of `text`; none if they cannot spell all of it."""
        tokens = tuple(self._encode(text))
        return tokens if b"".join(self._pieces[token] for token in tokens) == text.encode() else ()

    def may_begin(self, path: Path, after: int) -> bool:
        """Whether a path is at the begin of a word there; `after` is the token before it."""
        return path.spaced or after >= len(self.opens) or self.opens[after]


def _letter(sign: str) -> bool:
    """Whether the character makes one word with a letter beside it."""
    return sign != "" and unicodedata.category(sign)[0] in "LMN" and not spaceless(sign)


def _spellings(term: str) -> list[tuple[str, bool]]:
    """A term as it was given, and then as a transcript may write it otherwise: (text, as given)."""
    text = " ".join(term.split()) if len(term) <= LONGEST_CHARACTERS else ""
    others = dict.fromkeys((text[:1].upper() + text[1:], text.lower()))
    return [(text, True), *((other, False) for other in others if other != text)] if text else []


def due(
    scores: Tensor, best: Tensor, places: Sequence[tuple[Terms | None, int]]
) -> list[list[tuple[Path, float]]]:
    """After each of `scores` [K, V], whose maxima are `best` [K]: the paths that may win by what their first tokens
    lose, each with that loss, the least first. `places` [K]: the terms and the token before. One operation for all."""
    found: list[list[tuple[Path, float]]] = [[] for _ in places]
    asked = [(at, terms) for at, (terms, _) in enumerate(places) if terms is not None]
    if not asked:
        return found
    first = torch.nn.utils.rnn.pad_sequence([terms.first for _, terms in asked], batch_first=True)
    least = torch.nn.utils.rnn.pad_sequence(
        [terms.least for _, terms in asked], batch_first=True, padding_value=1.0
    )
    rows = torch.tensor([at for at, _ in asked])
    losses = scores[rows].gather(1, first) - best[rows, None]
    for row, number in (losses >= least).nonzero().tolist():
        at, terms = asked[row]
        path = terms.paths[number]
        if terms.vocabulary.may_begin(path, places[at][1]):
            found[at].append((path, float(losses[row, number])))
    return [sorted(paths, key=lambda pair: -pair[1])[:MOST_AT_ONCE] for paths in found]


def weighed(
    scores: Tensor, attention: Tensor, paths: Sequence[Path], before: Sequence[Tensor], closes: Tensor
) -> list[Weighed]:
    """What `scores` [N, V] and `attention` [N, T] after every token of every path, one path after the other, say of
    them. `before`: attention [T] before each path; `closes` [V]: before which tokens a word may be over."""
    best, total = scores.max(dim=-1).values, scores.logsumexp(dim=-1)
    lasts = torch.tensor([len(path.tokens) for path in paths]).cumsum(0) - 1
    over = scores[lasts, : len(closes)].masked_fill(~closes, -torch.inf).max(dim=-1).values
    following = torch.tensor([token for path in paths for token in (*path.tokens[1:], 0)])
    said = scores.gather(1, following[:, None])[:, 0]
    losses, chances = (said - best).tolist(), (said - total).exp().tolist()
    ended, any_end = (over - total[lasts]).tolist(), (best - total)[lasts].tolist()
    found, at = [], 0
    for number, (path, first) in enumerate(zip(paths, before, strict=True)):
        last = at + len(path.tokens) - 1
        end = any_end[number] if path.open else ended[number]
        heard = _listened(torch.cat([first[None], attention[at:last]]))
        found.append(Weighed(tuple(losses[at:last]), tuple(chances[at:last]), end, heard))
        at = last + 1
    return found


def _listened(attention: Tensor) -> tuple[int, ...]:
    """The frame that each query of `attention` [n, T] looks at more than the others do: Whisper's look at some frames
    all the time, as if to rest there."""
    return tuple((attention - attention.mean(dim=0)).argmax(dim=-1).tolist())
