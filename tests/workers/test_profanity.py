"""Profanity: strong words are masked in all their forms, all other words stay as they are."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.speech import TRANSCRIPTS
from workers.profanity import masked

PROFANE = """
fuck fucks fucked fucker fuckers fucking fuckin fucky motherfucker motherfuckers motherfucking clusterfucks
fuckups shit shits shitted shitter shitting shitty shite shithole shitheads bullshit bullshitting bullshitter
bitch bitches bitched bitching bitchy bastard bastards cunt cunts asshole assholes arse arses arsed arsehole
bollocks bollocking piss pissed pisses pissing wank wanks wanked wanker wankers wanking whore whores whoring
slut sluts slutty twat twats pussy pussies cock cocks cocksucker prick pricks dickhead dickheads goddamn
goddamned faggot faggots nigger niggers nigga niggas buggered jizzed tosser
"""
ORDINARY = """
Scunthorpe cocktail cockpit peacock Hitchcock Hancock cockatoo cocky cocked pricked prickly Dick Moby-Dick
dictionary assess class assassin bass passage Essex Sussex shiitake mishit Shitake's pushy pussycat pussyfoot
matchstick analysis title butter niggle niggardly snigger bitumen arsenal arsenic coarse parse hoarse
Pakistan Pakistani whorled whortleberry wankel Wankel piston bugle hello damn hell crap ass cum twatter
document summa cum laude fuchsia shift shirt it
"""


@pytest.mark.parametrize(
    "word,shown",
    [
        ("shit", "s***"),
        ("Shit,", "S***,"),
        ("SHIT!", "S***!"),
        ('"Bullshit."', '"B*******."'),
        ("shit's", "s***'s"),
        ("shit\u2019s", "s***\u2019s"),
        ("holy-shit", "holy-s***"),
        ("shit-show", "s***-show"),
        ("no shit, Sherlock. Fuck it.", "no s***, Sherlock. F*** it."),
        ("...fuckin'", "...f*****'"),
    ],
)
def test_a_profane_word_keeps_its_first_letter_and_what_stands_around_it(word: str, shown: str):
    assert masked(word) == shown


@pytest.mark.parametrize("word", PROFANE.split())
@pytest.mark.parametrize("as_written", [str.lower, str.upper, str.capitalize])
def test_endings_and_capitals_hide_nothing(word: str, as_written):
    shown = as_written(word)
    assert masked(shown) == shown[0] + "*" * (len(word) - 1)


@pytest.mark.parametrize("text", ORDINARY.split())
def test_other_words_stay(text: str):
    assert masked(text) == text


@pytest.mark.parametrize("transcript", TRANSCRIPTS.values())
def test_ordinary_speech_stays(transcript: str):
    assert masked(transcript) == transcript


@given(text=st.text(max_size=80) | st.text(alphabet=string.ascii_letters + " '-.,", max_size=80))
def test_masking_changes_letters_to_stars_and_nothing_else(text: str):
    shown = masked(text)
    assert len(shown) == len(text)
    assert all(
        now == before or (now == "*" and before.isalpha()) for now, before in zip(shown, text, strict=True)
    )
    assert masked(shown) == shown


@given(before=st.text(max_size=20), after=st.text(max_size=20))
def test_a_word_is_found_wherever_it_stands_alone(before: str, after: str):
    assert masked(f"{before} shit {after}").find(" s*** ", len(before)) == len(before)


def test_a_long_text_takes_no_time():
    """No backtracking: what cannot end as a word is left at once."""
    text = "fuck" * 25_000
    assert masked(text) == text
