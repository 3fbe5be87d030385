"""Key terms: the paths of a session's terms, which of them are weighed where, and what they are worth."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers import checkpoints
from workers.biasing import (
    BONUS,
    LONGEST,
    LONGEST_CHARACTERS,
    MOST_AT_ONCE,
    MOST_TOKENS,
    REACH,
    Path,
    Terms,
    Vocabulary,
    Weighed,
    due,
    weighed,
)
from workers.bpe import Encoder

#: Single letters and signs, with and without a space before; the end token spells nothing, the second is a byte of a
#: fallback.
SIGNS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-'. 日本"
PIECES = [
    b"",
    b"a",
    *(sign.encode() for sign in SIGNS),
    *(f" {sign}".encode() for sign in SIGNS if sign != " "),
]
VOCABULARY = Vocabulary(PIECES, Encoder(PIECES).encode, end_token=0)


def compiled(*terms: str) -> Terms:
    found = VOCABULARY.compile(terms)
    assert found is not None
    return found


def spelled(path: Path) -> str:
    return b"".join(PIECES[token] for token in path.tokens).decode()


# --- paths


def test_a_term_is_known_in_every_spelling_of_a_transcript() -> None:
    paths = {spelled(path): path.given for path in compiled("pg Vector").paths}
    assert paths == {
        " pg Vector": True,
        "pg Vector": True,
        " Pg Vector": False,
        "Pg Vector": False,
        " pg vector": False,
        "pg vector": False,
    }


def test_a_term_in_lower_case_has_fewer_spellings_and_doubles_have_one() -> None:
    assert [spelled(path) for path in compiled("fox", " fox ", "Fox").paths] == [" fox", "fox", " Fox", "Fox"]


def test_of_nothing_there_are_no_terms() -> None:
    assert VOCABULARY.compile([]) is None
    assert VOCABULARY.compile(["", "  "]) is None
    assert VOCABULARY.compile(["x" * (LONGEST_CHARACTERS + 1)]) is None
    assert VOCABULARY.compile(["x" * (LONGEST + 1)]) is None
    assert VOCABULARY.compile(["Ж", "aЖ"]) is None  # no token spells it: half a term is none


@given(st.lists(st.text("abcXYZ ", min_size=1, max_size=80), max_size=100))
def test_whatever_the_terms_the_paths_are_bounded(terms: list[str]) -> None:
    found = VOCABULARY.compile(terms)
    paths = found.paths if found else ()
    assert sum(len(path.tokens) for path in paths) <= MOST_TOKENS
    assert all(1 <= len(path.tokens) <= LONGEST for path in paths)


def test_where_there_are_too_many_the_first_terms_stay() -> None:
    terms = [f"{n:03d}" + "x" * 18 for n in range(100)]
    said = {spelled(path) for path in compiled(*terms).paths}
    assert " " + terms[0] in said
    assert terms[99] not in said


@pytest.mark.weights
def test_the_real_vocabularies_spell_terms_as_their_models_do() -> None:
    """Single letters at the end of a word are characters, not the bytes of the fallback that look alike."""
    spelling = checkpoints.pieces(checkpoints.fetch("moonshine-tiny-en"))
    found = Vocabulary(spelling, Encoder(spelling).encode, 2).compile(["Kowalczyk"])
    assert found is not None
    first = found.paths[0]
    assert [spelling[token] for token in first.tokens] == [b" K", b"ow", b"al", b"czy", b"k"]
    assert first.tokens[-1] > 258  # the bytes are 3 to 258


# --- where they are weighed


def token(text: str) -> int:
    return len(PIECES) - 1 - PIECES[::-1].index(text.encode())


def scores(**of: float) -> torch.Tensor:
    """[1, V]: these for the tokens of these letters behind a space, -20 for the rest."""
    row = torch.full((1, len(PIECES)), -20.0)
    for sign, value in of.items():
        row[0, token(f" {sign}")] = value
    return row


def test_paths_whose_first_token_is_out_of_reach_are_not_weighed() -> None:
    terms = compiled("ab", "b", "c")
    row = scores(x=0.0, a=-2 * BONUS, b=-BONUS - 0.1, c=-BONUS)
    found = due(row, row.max(dim=-1).values, [(terms, token("x"))])
    assert [(spelled(path), loss) for path, loss in found[0]] == [(" c", -BONUS), (" ab", -2 * BONUS)]


def test_a_long_term_buys_no_unlikely_first_token() -> None:
    row = scores(x=0.0, a=-REACH - 0.1)
    assert due(row, row.max(dim=-1).values, [(compiled("abcdefghij"), token("x"))]) == [[]]


def test_rows_of_other_sessions_are_not_touched() -> None:
    row = scores(a=0.0, b=-0.5)
    both = torch.cat([row, row, row])
    places = [(compiled("a", "b", "cd"), 1), (None, 1), (compiled("b"), 1)]
    found = due(both, both.max(dim=-1).values, places)
    assert [[spelled(path) for path, _ in paths] for paths in found] == [[" a", " b"], [], [" b"]]
    assert due(both, both.max(dim=-1).values, [(None, 1)] * 3) == [[], [], []]


def test_a_term_begins_where_a_word_does() -> None:
    row = torch.full((1, len(PIECES)), 0.0)
    terms = compiled("cat", "日本")
    begun = {
        before: {spelled(path) for path, _ in due(row, torch.zeros(1), [(terms, token(before))])[0]}
        for before in ("x", " 7", "-", "日")
    }
    spaced = {" cat", " Cat", " 日本"}
    assert begun["x"] == begun[" 7"] == spaced
    assert begun["-"] == begun["日"] == spaced | {"cat", "Cat", "日本"}


def test_no_more_than_so_many_are_weighed_at_once_the_likeliest_first() -> None:
    terms = compiled(*(f"a{one}{two}" for one in "bcdefghijk" for two in "lmnop"))
    row = scores(a=-1.0)
    [found] = due(row, row.max(dim=-1).values, [(terms, token("x"))])
    assert len(found) == MOST_AT_ONCE


# --- what they are worth


def worth(*losses: float, ended: float = -0.1, heard: tuple[int, ...] = (0, 0, 0)) -> float | None:
    path = Path(tuple(range(len(losses))))
    behind = Weighed(losses[1:], (0.5,) * (len(losses) - 1), ended, heard[: len(losses)])
    return path.gain(losses[0], behind, (6, 40))


def test_a_term_wins_if_it_loses_less_than_its_bonus() -> None:
    assert worth(-2.0, -3.0, 0.0) == pytest.approx(3 * BONUS - 5.1)
    assert worth(-4.0, -2.0, 0.0) is None
    assert worth(-1.0) == pytest.approx(BONUS - 1.1)


def test_half_a_word_is_worth_nothing() -> None:
    """«Worcester» where «Worcestershire» is said: what follows goes on with the word."""
    assert worth(0.0, -2.5, 0.0, ended=-0.2) is not None
    assert worth(0.0, -2.5, 0.0, ended=-4.0) is None


def test_no_token_may_be_out_of_reach_however_likely_the_others() -> None:
    path = Path(tuple(range(8)))
    easy, hard = (0.0,) * 7, (0.0, -REACH - 0.1, *(0.0,) * 5)
    heard = (0,) * 8
    assert path.gain(0.0, Weighed(easy, easy, 0.0, heard), (6, 40)) is not None
    assert path.gain(0.0, Weighed(hard, hard, 0.0, heard), (6, 40)) is None


def test_a_term_is_heard_in_order() -> None:
    assert worth(0.0, 0.0, 0.0, heard=(10, 4, 44)) is not None
    assert worth(0.0, 0.0, 0.0, heard=(10, 3, 20)) is None
    assert worth(0.0, 0.0, 0.0, heard=(10, 20, 61)) is None


@given(st.data())
def test_weighing_many_paths_at_once_is_weighing_each(data: st.DataObject) -> None:
    paths = [
        Path(tuple(tokens), open=data.draw(st.booleans()))
        for tokens in data.draw(
            st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=5)
        )
    ]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    count = sum(len(path.tokens) for path in paths)
    scored = torch.randn(count, 12, generator=generator)
    attention = torch.rand(count, 7, generator=generator)
    before = [torch.rand(7, generator=generator) for _ in paths]
    closes = torch.tensor([n % 3 == 0 for n in range(10)])
    at = 0
    for path, first, found in zip(
        paths, before, weighed(scored, attention, paths, before, closes), strict=True
    ):
        own, rows = scored[at : at + len(path.tokens)], [first, *attention[at : at + len(path.tokens) - 1]]
        at += len(path.tokens)
        chances = own.softmax(-1)
        for n, after in enumerate(path.tokens[1:]):
            assert found.chances[n] == pytest.approx(float(chances[n, after]), rel=1e-4)
            assert found.losses[n] == pytest.approx(float(own[n, after] - own[n].max()), abs=1e-5)
        ends = chances[-1] if path.open else chances[-1, :10][closes]
        assert found.ended == pytest.approx(float(ends.max().log()), abs=1e-4)
        mean = torch.stack(rows).mean(0)
        assert found.heard == tuple(int((row - mean).argmax()) for row in rows)
