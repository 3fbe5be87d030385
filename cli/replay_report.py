"""The report beside an exported recording: `report.html`, and its picture, for their owner's eyes alone."""

from pathlib import Path

from console.picture import photograph
from console.report import render
from console.sound import flac
from wire.recordings import Recording

PAGE, PICTURE = "report.html", "report.png"


def page(recording: Recording, folder: Path) -> None:
    """Write the report into the folder."""
    file = folder / PAGE
    file.touch(mode=0o600)
    file.write_text(render(recording, flac(recording.pcm)), encoding="utf-8")


def picture(_: Recording, folder: Path) -> None:
    """Write a picture of the report that is in the folder. Raises NoPicture."""
    photograph(folder / PAGE, folder / PICTURE)
    (folder / PICTURE).chmod(0o600)
