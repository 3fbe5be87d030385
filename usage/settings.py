"""What the operator of usage, and of the reference tracker, can set; `steno usage --settings` prints this page."""

import socket
import uuid
from pathlib import Path

from pydantic import AliasChoices, Field, SecretStr

from usage.batch import Rules
from wire.service import ServiceSettings


class UsageSettings(ServiceSettings):
    """The usage service. Each field's variable is its name in capitals."""

    usage_tracking_api_key: SecretStr = Field(
        SecretStr(""), description="The key that your vendor gave you; needed where billing is by usage."
    )
    usage_tracker_url: str = Field("", description="Address of the vendor's tracker: https://HOST[:PORT].")
    consumer: str = Field(
        default_factory=lambda: f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}",
        min_length=1,
        max_length=200,
        description="Name of this process among those that share the work; must be unique.",
    )
    flush_s: float = Field(5.0, ge=0, le=300, description="Records wait this long for company, in seconds.")
    batch_records: int = Field(500, ge=1, le=2000, description="Most records of one batch.")
    held_records: int = Field(
        10_000, ge=1, le=100_000, description="Most records this process holds at once; others stay in Redis."
    )
    # The vendor's documents say 5 to 60 minutes (protocol 8.5); less is for tests and for the impatient.
    give_up_s: float = Field(
        1800.0,
        ge=1,
        le=3600,
        description="A tracker out of reach for so many seconds ends this service with exit code 75.",
    )
    report_timeout_s: float = Field(
        10.0, gt=0, le=60, description="Longest wait for the tracker's answer, in seconds."
    )
    takeover_s: float = Field(
        60.0, ge=1, le=3600, description="Records of a process silent for so many seconds go to another."
    )
    silence_s: float = Field(
        120.0,
        ge=1,
        le=86_400,
        description="A session without a lap for so many seconds has lost its ingress and is closed out.",
    )
    warn_waiting: int = Field(1000, ge=1, description="More waiting records than this are warned of.")
    # The mirrored stack has licensing and usage in one process, behind one port (protocol 8.2).
    probe_port: int = Field(
        0,
        ge=0,
        le=65535,
        validation_alias=AliasChoices("probe_port", "http_port"),
        description="Port that serves /health and /metrics; 0 is any free one.",
    )
    allow_http: bool = Field(
        False,
        description="Let reports, and the key, go unencrypted to other machines: never over a foreign net.",
    )

    @property
    def rules(self) -> Rules:
        """What concerns the batches."""
        return Rules(self.flush_s, self.batch_records, self.held_records, self.give_up_s)


class TrackerSettings(ServiceSettings):
    """The reference tracker. Needs no Redis."""

    tracker_host: str = Field(
        "127.0.0.1", description="Address to listen on; plain HTTP, so keep it behind a proxy."
    )
    tracker_port: int = Field(8084, ge=0, le=65535, description="Port to listen on; 0 is any free one.")
    tracker_book: Path = Field(Path("tracker.sqlite3"), description="File that holds what was counted.")
    tracker_api_keys: SecretStr = Field(
        SecretStr(""),
        description="The keys of customers, with commas between them; reports need one of them.",
    )
