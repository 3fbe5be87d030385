"""The text before the open turn: its order, and what goes first where there is no room. A letter is a token here."""

from hypothesis import given
from hypothesis import strategies as st

from workers.recognizer import SlotOptions
from workers.u3pro.prompt import before


def letters(text: str) -> list[int]:
    return [*map(ord, text)]


def text(options: SlotOptions, said: tuple[str, ...] = (), room: int = 500) -> str:
    return "".join(map(chr, before(options, said, letters, room)))


ALL = SlotOptions(keyterms=("Anna", "Ulm"), prompt=" A call. ", agent_context="Who is it?")


def test_everything_has_its_place() -> None:
    found = text(ALL, ("Hello.", "It is me."))
    assert found == " Glossary: Anna, Ulm. A call. Hello. It is me. Who is it?"


def test_nothing_is_no_text() -> None:
    assert text(SlotOptions()) == ""
    assert text(SlotOptions(prompt="  ")) == ""


def test_the_oldest_turns_go_first() -> None:
    assert text(SlotOptions(), ("One.", "Two.", "Three."), room=13) == " Two. Three."


def test_the_agents_last_words_are_kept_before_any_turn() -> None:
    assert text(SlotOptions(agent_context="Who?"), ("One.",), room=8) == " Who?"
    assert text(SlotOptions(agent_context="Where?"), (), room=4) == "ere?"


def test_a_long_prompt_leaves_room_for_the_conversation() -> None:
    found = text(SlotOptions(prompt="p" * 200), ("Hello.",), room=50)
    assert found.endswith(" Hello.")
    assert len(found) == 50


@given(
    st.lists(st.text(max_size=30), max_size=5),
    st.text(max_size=80),
    st.text(max_size=80),
    st.lists(st.text(max_size=40), max_size=6),
    st.integers(0, 120),
)
def test_it_never_needs_more_room_than_there_is(
    terms: list[str], prompt: str, agent: str, said: list[str], room: int
) -> None:
    options = SlotOptions(keyterms=tuple(terms), prompt=prompt, agent_context=agent)
    assert len(before(options, said, letters, room)) <= room
