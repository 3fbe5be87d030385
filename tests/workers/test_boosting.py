"""Tries of key terms in greedy search."""

import pytest
import torch

from tests.workers.test_biasing import PIECES, compiled
from workers.biasing import BONUS
from workers.boosting import INSIDE, MOST_EDGES, Boost, edges

BLANK = len(PIECES)
TOKEN = {piece.decode(): number for number, piece in enumerate(PIECES)}


def logits(**scores: float) -> torch.Tensor:
    """One row; `_` in front stands for a space, `blank` for the blank."""
    row = torch.full((1, BLANK + 1), -20.0)
    for name, score in scores.items():
        row[0, BLANK if name == "blank" else TOKEN[name.replace("_", " ")]] = score
    return row


def test_a_trie_shares_what_terms_have_in_common() -> None:
    found = edges(compiled("cab", "cat"))
    spelled = [(source, PIECES[token].decode()) for source, token, _ in found]
    assert (0, " c") in spelled
    assert len([one for one in spelled if one[1] == " c"]) == 1
    assert sorted(target for *_, target in found) == list(range(1, len(found) + 1))
    assert edges(None) == []


def test_more_terms_than_there_is_room_for_leave_the_last_ones_out() -> None:
    many = edges(compiled(*(f"term number {n:03}" for n in range(200))))
    assert 0 < len(many) <= MOST_EDGES


def test_a_term_is_followed_to_its_end_and_left() -> None:
    boost, rows = Boost(2, torch.device("cpu")), torch.tensor([1])
    boost.set(1, compiled("cab"))
    one = boost.of(rows)

    def say(said: str, **scores: float) -> None:
        label = one.choose(logits(**scores), BLANK)
        assert label.tolist() == [BLANK if said == "blank" else TOKEN[said]]
        one.advance(label, label != BLANK)

    say(" d", _d=1.0, _c=1.0 - BONUS - 0.1)  # too much better
    say(" c", _d=1.0, _c=1.0 - BONUS + 0.1)
    say("blank", blank=1.0, a=0.9)  # whether anything is said is the model's affair
    say("a", o=1.0, a=1.0 - INSIDE + 0.1)
    say("o", o=1.0, b=1.0 - INSIDE - 0.1)  # out of it
    say("o", o=1.0, b=0.9)
    boost.put(rows, one)
    assert boost.node.tolist() == [0, 0, 0]


def test_rows_have_terms_of_their_own_and_a_reset_one_is_in_none() -> None:
    boost, rows = Boost(3, torch.device("cpu")), torch.tensor([0, 2])
    boost.set(0, compiled("cab"))
    boost.set(2, compiled("dab"))
    both = boost.of(rows)
    scores = logits(_e=1.0, _c=0.9, _d=0.8).repeat(2, 1)
    label = both.choose(scores, BLANK)
    assert label.tolist() == [TOKEN[" c"], TOKEN[" d"]]
    both.advance(label, torch.tensor([True, True]))
    boost.put(rows, both)
    assert boost.node.tolist()[:3] == [1, 0, 1]
    boost.reset(torch.tensor([0]))
    boost.set(2, None)
    assert boost.node.tolist()[:3] == [0, 0, 0]
    assert boost.wanted.tolist() == [True, False, False, False]


@pytest.mark.parametrize("text", ["seven", "Seven"])
def test_bonuses_count_once_where_two_paths_share_a_token(text: str) -> None:
    boost = Boost(1, torch.device("cpu"))
    boost.set(0, compiled(text, "sever"))
    one = boost.of(torch.tensor([0]))
    close = logits(_t=1.0, _s=1.0 - BONUS - 0.1)
    assert one.choose(close, BLANK).tolist() == [TOKEN[" t"]]
