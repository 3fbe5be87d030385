"""`cli.demo`: what it plays and what it tells; the whole of it is tests/system/test_demo.py."""

import io
import wave
from pathlib import Path

import pytest
from rich.console import Console

from cli import demo
from cli.client import Session
from cli.latencies import Latencies
from cli.scenes import SCENES
from wire.errors import SettingsError

DATA = Path(__file__).parent.parent / "data"


def told(show, *what) -> str:
    console = Console(file=io.StringIO(), width=80)
    show(*what, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_recording_is_played_and_followed_by_silence() -> None:
    path = DATA / "hello_world.wav"
    with wave.open(str(path)) as file:
        recorded = file.readframes(file.getnframes())
    played = b"".join(demo._chunks(path, 60.0))
    assert played.startswith(recorded)
    assert played[len(recorded) :] == bytes(32 * demo.SILENCE_MS)


def test_a_long_recording_is_played_up_to_the_pause() -> None:
    seconds = len(b"".join(demo._chunks(DATA / "beckett.wav", 2.0))) / 32_000
    assert seconds == pytest.approx(2.0 + demo.SILENCE_MS / 1000)


def played(session: Session, factor: float) -> demo.Played:
    return demo.Played(SCENES[0], session, factor * session.audio_s)


def test_figures_say_what_was_measured_and_of_which_pool() -> None:
    session = Session(
        0.0, 12.3, latencies=Latencies(0.0, 6.7, first_partial_ms=[500.0], final_ms=[480.0, 520.0])
    )
    text = told(demo.print_figures, played(session, 0.12))
    for figure in ("english", "12 s of audio", "7 ms", "500 ms (median of 2; 480 to 520)", "0.12"):
        assert figure in text
    assert "keep up" not in text


def test_a_machine_that_was_too_busy_is_told() -> None:
    assert "keep up" in told(demo.print_figures, played(Session(0.0, 12.3), 1.7))


def test_a_session_that_ended_before_its_first_sound_has_figures_too() -> None:
    assert "0.00" in told(demo.print_figures, played(Session(0.0, 0.0), 0.0))


def test_a_prompt_and_key_terms_are_told() -> None:
    scene = next(scene for scene in SCENES if scene.pool == "u3pro")
    assert list(demo._asked(scene)) == [
        "prompt: A reading of Worstward Ho by Samuel Beckett.",
        "key terms: Fail better",
    ]


def test_a_pool_that_nobody_serves_is_told_before_anything_is_fetched() -> None:
    with pytest.raises(SettingsError, match="no such pool: klingon"):
        demo.run(None, ["klingon"], Console(quiet=True))


def test_the_way_on_is_told_and_the_client_can_be_copied() -> None:
    text = told(demo.print_what_next)
    assert all(command in text for command in ("steno up", "steno mic", "steno transcribe FILE"))
    shown = [line.strip() for line in text.splitlines()]
    assert all(line in shown for line in demo.FIRST_CLIENT.splitlines())
    compile(demo.FIRST_CLIENT, "first client", "exec")
