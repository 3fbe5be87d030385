"""What an operator may set for ingress. Per-session choices are not here: they are `wire.params.SessionParams`."""

import uuid
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr

from ingress.consent import Policy, Record
from ingress.session import Limits
from ingress.tokens import MIN_SECRET_BYTES
from wire.sealing import ArchiveSettings
from wire.speech_models import DEFAULT_MODEL, MODELS


class IngressSettings(ArchiveSettings):
    """One ingress node. Each field's variable is its name in capitals."""

    # In a container, where the vendor's stack puts it too, loopback would be unreachable; `steno up` asks for loopback.
    host: str = Field("0.0.0.0", description="Address to listen on; 127.0.0.1 for this machine only.")  # noqa: S104
    port: int = Field(
        8080,
        ge=0,
        le=65535,
        validation_alias=AliasChoices("port", "aai_wss_port"),
        description="Port that serves clients (ws://HOST:PORT/ and /v3/ws) and their health check; 0 is any free one.",
    )
    instance: str = Field(
        default_factory=lambda: uuid.uuid4().hex,
        min_length=1,
        max_length=100,
        description="Name of this node's inbox in Redis; must differ between nodes. Random unless set.",
    )
    api_keys: SecretStr | None = Field(
        None,
        description="Keys that clients may present, with commas between. Without any here and in API_KEYS_FILE, "
        "whatever is not empty is accepted.",
    )
    api_keys_file: Path | None = Field(
        None,
        description="File of more keys, one a line: KEY [name=NAME] [sessions=N] [record=yes|no]; # begins a "
        "comment. Read again when it changes.",
    )
    api_key_sessions: int | None = Field(
        None,
        ge=1,
        description="Most sessions at once of one key, over all nodes, where its line says nothing; more are refused "
        "with 3009. No limit unless set.",
    )
    token_secret: SecretStr | None = Field(
        None,
        min_length=MIN_SECRET_BYTES,
        description="Signs temporary tokens (/v3/token), at least 32 characters; the same for all nodes that accept "
        "each other's. Random for each process unless set.",
    )
    tls_cert_file: Path | None = Field(
        None,
        description="Certificate chain in PEM; with TLS_KEY_FILE, clients connect with wss:// and https://. Taken "
        "again when it changes.",
    )
    tls_key_file: Path | None = Field(None, description="The certificate's key in PEM, without a password.")
    backlog: int = Field(
        4096,
        ge=1,
        description="Connections the system may hold until this node takes them; the system's own limit "
        "(net.core.somaxconn) is a limit to this one.",
    )
    open_timeout_s: float = Field(
        10.0, gt=0, description="Longest time for a client's TLS and HTTP handshakes, each, in seconds."
    )
    default_speech_model: Literal[*MODELS] = Field(  # type: ignore[valid-type]  # a closed list, made elsewhere
        DEFAULT_MODEL, description="Model of sessions that name none, by no parameter and no header."
    )
    max_sessions: int = Field(
        256, ge=1, description="Most sessions at once on this node; more are refused with 3009."
    )
    tick_ms: int = Field(
        2,
        ge=1,
        le=1000,
        description="Audio of all sessions is appended to Redis at most this often, in ms; longer costs less.",
    )
    admission_queue: int = Field(
        0,
        ge=0,
        description="Sessions that may wait for a slot of a pool whose slots are all taken; more are refused with 3009 "
        "at once.",
    )
    admission_timeout_s: float = Field(
        5.0,
        gt=0,
        description="A session that no worker takes within this time is refused with 3009, in seconds: one that "
        "queues, or comes while a worker is restarted.",
    )
    termination_timeout_s: float = Field(
        10.0,
        gt=0,
        description="After Terminate, longest silence of the worker beyond the audio left to hear, in seconds.",
    )
    idle_timeout_s: float = Field(
        60.0, gt=0, description="A client that sends nothing for this long is closed with 3006, in seconds."
    )
    resume_window_s: float = Field(
        60.0,
        ge=0,
        description="A resumable session (docs/resume.md) whose connection was lost waits this long for its client, in "
        "seconds.",
    )
    max_session_s: float = Field(
        10_800.0, gt=0, description="Longest session; then it is closed with 3008, in seconds."
    )
    max_buffer_s: float = Field(
        300.0,
        gt=0,
        description="Audio a client may send ahead of what can have been heard, in seconds; more is closed with 3007.",
    )
    max_message_bytes: int = Field(
        131_072, ge=1024, description="Largest message a client may send; a larger one is closed with 1009."
    )
    max_pending_bytes: int = Field(
        256 * 2**20,
        ge=2**16,
        description="Audio of all clients waiting for Redis; beyond it this node stops reading from clients. The "
        "default holds 30 s of 256 sessions.",
    )
    max_held_bytes: int = Field(
        256 * 2**20,
        ge=2**16,
        description="Audio of all sessions since their last checkpoints, held to be written again if Redis loses it; "
        "beyond it the oldest is let go.",
    )
    max_session_held_bytes: int = Field(
        4 * 2**20,
        ge=2**16,
        description="The same of one session; the default holds two minutes without a checkpoint.",
    )
    max_unread_bytes: int = Field(
        2**20,
        ge=2**16,
        description="Messages waiting for one client that does not read; beyond it the client is closed with 3005.",
    )
    redis_patience_s: float = Field(
        30.0, gt=0, description="Sessions end with 3005 when Redis is unreachable for this long, in seconds."
    )
    license_required: bool = Field(
        True,
        description="Nobody is admitted until the licensing service says that the license is good; false is for a "
        "stack without one.",
    )
    license_grace_s: float = Field(
        60.0,
        ge=0,
        description="When the license has failed, time for open sessions to end by themselves, in seconds; then this "
        "node ends them and exits with code 4.",
    )
    webhook_grace_s: float = Field(
        10.0,
        ge=0,
        description="After the last session, time to deliver what webhooks are still owed, in seconds.",
    )
    drain_grace_s: float = Field(
        10_800.0,
        ge=0,
        validation_alias=AliasChoices("drain_s", "drain_grace_s"),
        description="After SIGTERM, time for open sessions to end by themselves, in seconds; resumable ones are "
        "asked to go on on another node meanwhile. 0 ends all at once.",
    )
    record: Record = Field(
        Record.OFF,
        description="Whose sessions are recorded, audio included (docs/replay.md): off, keys (those marked "
        "record=yes), ask (and those that ask for it), or all.",
    )
    record_sample: float = Field(
        0.0, ge=0, le=1, description="Share of the other sessions that is recorded, unless RECORD is off."
    )
    record_total_bytes: int = Field(
        2**30,
        ge=2**16,
        description="Most bytes of all recordings; beyond it the oldest are erased. The same for all nodes.",
    )
    replay_sessions: int = Field(
        2,
        ge=0,
        description="Most sessions at once of `steno replay run`, over all nodes; they give way to others. 0: none.",
    )

    @property
    def policy(self) -> Policy:
        """Who is recorded, and how much."""
        return Policy(
            self.record,
            self.record_sample,
            self.record_keep_s,
            self.record_session_bytes,
            self.record_total_bytes,
        )

    @property
    def limits(self) -> Limits:
        """What concerns a single session."""
        return Limits(
            admission_timeout_s=self.admission_timeout_s,
            termination_timeout_s=self.termination_timeout_s,
            idle_timeout_s=self.idle_timeout_s,
            max_session_s=self.max_session_s,
            max_buffer_s=self.max_buffer_s,
            resume_window_s=self.resume_window_s,
        )
