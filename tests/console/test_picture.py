"""`console.picture`: a report's page, photographed whole."""

import struct
from pathlib import Path

import pytest

from console import picture
from console.picture import WIDTH, NoPicture, photograph
from console.report import render
from tests.tools import tool


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def test_a_page_is_photographed_whole(recording, tmp_path: Path):
    tool(*picture.PROGRAMS)
    page, png = tmp_path / "report.html", tmp_path / "report.png"
    page.write_text(render(recording))
    photograph(page, png)
    width, height = size(png.read_bytes())
    assert width == WIDTH
    assert 900 < height < picture.MAX_HEIGHT


def test_without_chromium_it_is_told_what_to_install(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoPicture, match="apt install chromium"):
        photograph(tmp_path / "page.html", tmp_path / "page.png")


def test_a_program_that_fails_is_told_in_its_words(monkeypatch, tmp_path: Path):
    program = tmp_path / "chromium"
    program.write_text("#!/bin/sh\necho 'no display' >&2; exit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(NoPicture, match="no display"):
        photograph(tmp_path / "page.html", tmp_path / "page.png")
