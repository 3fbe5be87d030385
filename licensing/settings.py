"""What the operator of licensing, and of the reference issuer, can set; `steno licensing --settings` prints it."""

from pathlib import Path

from pydantic import AliasChoices, Field

from wire.service import ServiceSettings


class LicensingSettings(ServiceSettings):
    """The licensing service. Each field's variable is its name in capitals."""

    license_file_path: Path = Field(
        Path("/var/steno_license.jwt"), description="The licence, as your vendor delivered it."
    )
    license_keys_path: Path | None = Field(
        None, description="File with the public keys that licences are verified with (a JSON Web Key Set)."
    )
    license_keys: str = Field("", description="The same keys as text, instead of the file.")
    license_issuer: str = Field(
        "steno", min_length=1, max_length=200, description="Whose licences are taken: the claim `iss`."
    )
    checkin_timeout_s: float = Field(
        10.0, gt=0, le=60, description="Longest wait for the issuer's answer, in seconds."
    )
    allow_http: bool = Field(
        False, description="Let check-ins go unencrypted to other machines; answers are signed all the same."
    )
    # The mirrored stack answers /health and /v1/status on a port that it publishes as 8082 (protocol 8.2).
    probe_port: int = Field(
        8082,
        ge=0,
        le=65535,
        validation_alias=AliasChoices("probe_port", "http_port"),
        description="Port that serves /health, /metrics and /v1/status; 0 is any free one.",
    )


class IssuerSettings(ServiceSettings):
    """The reference issuer. Needs no Redis."""

    issuer_host: str = Field(
        "127.0.0.1", description="Address to listen on; plain HTTP, so keep it behind a proxy."
    )
    issuer_port: int = Field(8083, ge=0, le=65535, description="Port to listen on; 0 is any free one.")
    issuer_book: Path = Field(Path("issuer.sqlite3"), description="File that holds the licences issued.")
    issuer_key_path: Path = Field(
        Path("steno-private.pem"), description="The private key that signs (steno license keygen)."
    )
    issuer_name: str = Field(
        "steno", min_length=1, max_length=200, description="Whose licences these are: the claim `iss`."
    )
