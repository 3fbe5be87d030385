"""`cli.resuming`: what is kept of what was sent, and what is let go."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.resuming import PAUSES_S, Forgotten, Sent, pauses


def handed_over(sent: Sent) -> list[bytes | str]:
    """Everything that is still to be sent, as if it were sent now."""
    found: list[bytes | str] = []
    while (message := sent.next()) is not None:
        found.append(message)
        sent.handed_over()
    return found


@given(st.integers(0, 30), st.data())
def test_another_connection_gets_what_the_server_does_not_have(count, data):
    sent, messages = Sent(), [bytes([number]) * 10 for number in range(count)]
    for message in messages:
        sent.add(message)
        if data.draw(st.booleans()):
            handed_over(sent)
    received = data.draw(st.integers(0, count))
    sent.rewind(received)
    assert handed_over(sent) == messages[received:]


def test_the_newest_are_kept():
    sent = Sent(most_bytes=100)
    for number in range(50):
        sent.add(bytes([number]) * 10)
        handed_over(sent)
    sent.rewind(40)
    assert handed_over(sent) == [bytes([number]) * 10 for number in range(40, 50)]
    with pytest.raises(Forgotten):
        sent.rewind(39)
    with pytest.raises(Forgotten):
        sent.rewind(51)


def test_what_was_never_sent_is_not_let_go():
    sent = Sent(most_bytes=0)
    for number in range(5):
        sent.add(str(number))
    assert handed_over(sent) == ["0", "1", "2", "3", "4"]
    sent.add("5")
    assert handed_over(sent) == ["5"]
    with pytest.raises(Forgotten):
        sent.rewind(3)


def test_pauses_grow_and_never_end():
    assert list(itertools.islice(pauses(), 9)) == [*PAUSES_S, 4.0, 4.0, 4.0]
    assert list(PAUSES_S) == sorted(PAUSES_S)
