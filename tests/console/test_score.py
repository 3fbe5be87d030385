"""`console.score`: turns drawn in lines."""

import re
from dataclasses import replace
from itertools import pairwise

import pytest

from console import drawing, score
from console.retold import Note, Story, Turn
from console.score import LINE_MS, MEANINGS, Score
from wire.recordings import Recording


@pytest.fixture
def paper(recording: Recording) -> Score:
    sound = drawing.samples(recording.pcm)
    return Score(Story(recording), sound, drawing.loudest(sound), recording.speech)


def lefts(row: str) -> list[float]:
    return [float(left) for left in re.findall(r'class="w[^"]*"[^>]*left:([\d.]+)%', row)]


def test_a_turn_shows_its_rows_its_end_and_its_times(paper: Score):
    drawn = paper.turn(paper.story.turns[0], 400)
    assert drawn.count('<li class="partial">') == 2
    assert drawn.count('<li class="final">') == 1
    assert '<span class="w fresh" data-s="320"' in drawn
    assert '<span class="w pale fresh" data-s="720"' in drawn
    assert "Ended by the rule <b>confident</b>" in drawn
    assert MEANINGS["confident"] in drawn
    assert "last_word <b>none</b>" in drawn
    assert '<i class="p2" style="width:7.50%" title="model: 30 ms">' in drawn
    assert "not recorded" in drawn  # that of the second
    assert "0.20 s behind" in drawn


def test_a_long_turn_is_drawn_in_lines_and_each_word_once(paper: Score):
    turn = paper.story.turns[0]
    final = turn.rows[-1]
    words = tuple(
        replace(final.words[0], text=f"word{number}", start_ms=400 * number, end_ms=400 * number + 300)
        for number in range(40)
    )
    long = Turn(0, (*turn.rows[:-1], replace(final, words=words, received_ms=16_500)), None, 0, 16_300)
    drawn = paper.turn(long, 0.0)
    assert drawn.count('class="line"') == 3 == -(-16_300 // LINE_MS)
    for number in range(40):
        assert drawn.count(f">word{number}</button>") == 1


def test_words_never_cover_each_other(paper: Score):
    turn = paper.story.turns[0]
    final = turn.rows[-1]
    crowded = tuple(
        replace(final.words[0], text="crowded", start_ms=100 * number + 100) for number in range(8)
    )
    drawn = paper.turn(replace(turn, rows=(replace(final, words=crowded),)), 0.2)
    found = lefts(drawn)
    assert len(found) == 8
    assert all(later - earlier > 5 for earlier, later in pairwise(found))


def test_a_row_that_says_nothing_new_on_a_line_is_left_out(paper: Score):
    turn = paper.story.turns[0]
    row = turn.rows[1]
    rows = tuple(replace(row, received_ms=7_000 + number) for number in range(5))
    drawn = paper.turn(Turn(0, rows, None, 0, 7_500), 0.0)
    first, second = drawn.split('class="line"')[1:]
    assert first.count('<li class="partial">') == 1
    assert second.count('<li class="partial">') == 5


def test_the_whole_shows_turns_and_takeovers(paper: Score):
    drawn = paper.whole()
    assert drawn.count('class="block"') == 2
    assert drawn.count('class="take"') == 1
    assert "<img" not in drawn


def test_missing_audio_is_marked(recording: Recording):
    items = tuple(item for item in recording.items if getattr(item, "position", None) not in (3_200, 4_800))
    gapped = replace(recording, items=items)
    sound = drawing.samples(gapped.pcm)
    paper = Score(Story(gapped), sound, 1.0, [])
    assert gapped.gaps
    assert paper.whole().count('class="gap"') == 1


def test_notes_are_buttons_and_none_is_nothing():
    assert score.notes([]) == ""
    drawn = score.notes([Note(1.0, 61_250, "taken again", "<b>")])
    assert (
        '<li class="taken again"><button type="button" class="num" data-s="61250">1:01.2</button> &lt;b&gt;'
        in drawn
    )


@pytest.mark.parametrize("length", [1, 999, 6_000, 83_000, 3_600_000, 10_800_000])
def test_an_axis_has_a_few_round_times(length):
    drawn = score.axis(0, length)
    assert 1 <= drawn.count("<span") <= 9
