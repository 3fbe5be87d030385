"""What an operator may set for ingress. Per-session choices are not here: they are `wire.params.SessionParams`."""

import uuid

from pydantic import AliasChoices, Field

from ingress.session import Limits
from wire.service import ServiceSettings


class IngressSettings(ServiceSettings):
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
    max_sessions: int = Field(
        256, ge=1, description="Most sessions at once on this node; more are refused with 3009."
    )
    tick_ms: int = Field(
        20, ge=1, le=1000, description="Audio of all sessions is appended to Redis this often, in ms."
    )
    admission_timeout_s: float = Field(
        5.0,
        gt=0,
        description="A session that no worker takes within this time is refused with 3009, in seconds.",
    )
    termination_timeout_s: float = Field(
        10.0,
        gt=0,
        description="After Terminate, longest silence of the worker beyond the audio left to hear, in seconds.",
    )
    idle_timeout_s: float = Field(
        60.0, gt=0, description="A client that sends nothing for this long is closed with 3006, in seconds."
    )
    max_session_s: float = Field(
        10_800.0, gt=0, description="Longest session; then it is closed with 3008, in seconds."
    )
    max_ahead_s: float = Field(
        300.0,
        gt=0,
        description="Audio a client may send ahead of what can have been heard before it is slowed down, in seconds.",
    )
    max_message_bytes: int = Field(
        131_072, ge=1024, description="Largest message a client may send; a larger one is closed with 1009."
    )
    max_pending_bytes: int = Field(
        16 * 2**20,
        ge=2**16,
        description="Audio of all clients waiting for Redis; beyond it this node stops reading from clients.",
    )
    max_unread_bytes: int = Field(
        2**20,
        ge=2**16,
        description="Messages waiting for one client that does not read; beyond it the client is closed with 3005.",
    )
    redis_patience_s: float = Field(
        10.0, gt=0, description="Sessions end with 3005 when Redis is unreachable for this long, in seconds."
    )
    drain_grace_s: float = Field(
        30.0, ge=0, description="After SIGTERM, time for open sessions to end by themselves, in seconds."
    )

    @property
    def limits(self) -> Limits:
        """What concerns a single session."""
        return Limits(
            admission_timeout_s=self.admission_timeout_s,
            termination_timeout_s=self.termination_timeout_s,
            idle_timeout_s=self.idle_timeout_s,
            max_session_s=self.max_session_s,
            max_ahead_s=self.max_ahead_s,
        )
