"""What the operator of a worker can set; `steno worker --settings` prints this page."""

import socket
import uuid
from typing import Literal

from pydantic import AliasChoices, Field, field_validator

from wire.sealing import SealedSettings

#: Begin of the references that mean random weights (`dummy.py`): there is nothing to fetch.
DUMMY = "dummy:"
#: What a pool serves unless its operator names something else: embedded models.
MODELS = {"english": "moonshine-tiny-en", "multilang": "whisper-base", "u3pro": "whisper-base"}


class WorkerSettings(SealedSettings):
    """One worker process: one pool, one model, so many slots."""

    worker: str = Field(
        default_factory=lambda: f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}",
        description="Name of this process among the pool's workers; must be unique.",
    )
    slots: int = Field(
        16,
        ge=1,
        le=8192,
        validation_alias=AliasChoices("slots", "max_open_streams"),
        description="Sessions served at once (rows of the batch).",
    )
    model: str = Field(
        "",
        description="Weights: an embedded model's name, a local folder, a Hub id, or dummy:nemotron-en and "
        "dummy:nemotron-multi (random weights, for capacity tests); empty takes the pool's own.",
    )
    vad: str = Field(
        "silero-vad", description="Voice activity weights: an embedded model's name or a local folder."
    )
    precision: Literal["auto", "float32", "int8", "bfloat16", "float16"] = Field(
        "auto",
        description="Numbers of the large products; auto takes int8 where the processor multiplies it fast. Native "
        "transducers: float32 (auto on a CPU), bfloat16 (auto on a GPU that has it), float16.",
    )
    lookahead: int = Field(
        6,
        ge=0,
        le=69,
        description="Native transducers: frames of 80 ms that a chunk looks ahead; less is sooner, more is better. "
        "Published checkpoints know 0, 1, 3, 6, 13. A session's `mode` may choose another.",
    )
    threads: int = Field(
        0,
        ge=0,
        description="Threads of the model on a CPU; 0 takes half the cores and leaves the rest to the other services.",
    )
    partial_ms: int = Field(
        0,
        ge=0,
        le=5000,
        description="Audio between two partials of a turn, in ms, from 100 on; 0 takes what suits the pool's model.",
    )
    step_ms: int = Field(
        40,
        ge=5,
        le=500,
        description="Time between two steps of the model, in ms; a step in a hurry does not wait.",
    )
    lease_s: float = Field(
        1.5, ge=0.5, le=60, description="A worker silent for so many seconds loses its sessions to another."
    )
    max_takes: int = Field(
        5,
        ge=1,
        description="A session taken more often than this is ended instead of killing one more worker.",
    )
    # Where the mirrored stack's workers have their port (protocol 8.2), and their health.
    probe_port: int = Field(
        0,
        ge=0,
        le=65535,
        validation_alias=AliasChoices("probe_port", "server_port"),
        description="Port that serves /health and /metrics; 0 is any free one.",
    )
    report_s: float = Field(
        2.0,
        gt=0,
        le=30,
        description="Longest time between two load reports, in seconds; changes are told at once.",
    )
    overload_s: float = Field(
        1.0,
        gt=0,
        description="A worker that is behind by more than this, in seconds, takes no new session until it is behind by "
        "half of it.",
    )
    drain_grace_s: float = Field(
        30.0, ge=0, description="On SIGTERM, seconds to let sessions end before they go to another worker."
    )

    @field_validator("partial_ms")
    @classmethod
    def _bounded(cls, value: int) -> int:
        if 0 < value < 100:
            raise ValueError("must be 0, or 100 to 5000")
        return value

    def model_of(self, pool: str) -> str:
        """The model reference that a worker of this pool serves. KeyError for an unknown pool without a model."""
        return self.model or MODELS[pool]
