"""`cli.replay_report`: the report beside the files of an exported recording, through the command."""

import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import replay_files
from cli.main import app
from console import picture
from tests.speech import clip_pcm
from tests.tools import tool
from wire.recorded import Audio, SessionFacts
from wire.recordings import Recording

RECORDING = Recording(
    SessionFacts("some-id", 1_000.0), items=(Audio(1_001.0, 0, clip_pcm("hello_world.wav")),)
)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    folder = tmp_path / "first"
    replay_files.write(RECORDING, folder)
    return folder


def export(*words: str) -> int:
    return CliRunner().invoke(app, ["replay", "export", *words]).exit_code


def test_an_export_holds_the_report_and_can_be_read_again(exported: Path, tmp_path: Path):
    folder = tmp_path / "second"
    assert export(str(exported), str(folder)) == 0
    page = folder / "report.html"
    assert "some-id" in page.read_text()
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert not (folder / "report.png").exists()
    assert replay_files.read(folder).pcm == RECORDING.pcm


def test_a_picture_is_made_when_it_is_asked_for(exported: Path, tmp_path: Path):
    tool(*picture.PROGRAMS)
    folder = tmp_path / "second"
    assert export(str(exported), str(folder), "--png") == 0
    png = folder / "report.png"
    assert png.read_bytes().startswith(b"\x89PNG")
    assert stat.S_IMODE(png.stat().st_mode) == 0o600
