"""What an operator may set for the console; `steno console --settings` prints it."""

import ipaddress
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from console.door import MIN_TOKEN_CHARS
from wire.errors import SettingsError
from wire.sealing import SealedSettings


class ConsoleSettings(SealedSettings):
    """One console. Each field's variable is its name in capitals."""

    console_host: str = Field(
        "127.0.0.1",
        description="Address to listen on; any other than this machine's own needs CONSOLE_TOKEN.",
    )
    console_port: int = Field(8090, ge=0, le=65535, description="Port of the pages; 0 is any free one.")
    console_token: SecretStr | None = Field(
        None,
        description=f"What one has to know to look, at least {MIN_TOKEN_CHARS} characters. Without one, everybody on "
        "this machine may.",
    )
    console_ingress_url: str = Field(
        "ws://localhost:8080",
        description="Ingress that the page «Try it» speaks to, through the console: ws(s)://HOST[:PORT].",
    )
    console_api_key: SecretStr = Field(
        SecretStr("self-hosted"),
        description="Key for that ingress; it stays in the console. self-hosted unless set.",
    )
    console_live_sessions: int = Field(
        4, ge=0, le=100, description="Most sessions at once from «Try it»; 0 switches the page off."
    )
    console_metrics_urls: str = Field(
        "",
        description="The services' /metrics, with commas between; delays are read there. "
        "Example: http://10.0.0.5:9100/metrics",
    )

    @field_validator("console_token")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < MIN_TOKEN_CHARS:
            raise ValueError(f"should have at least {MIN_TOKEN_CHARS} characters")
        return value

    @field_validator("console_ingress_url")
    @classmethod
    def _websocket(cls, value: str) -> str:
        if not is_address(value, "ws", "wss"):
            raise ValueError("should look like ws://localhost:8080 or wss://speech.example")
        return value.rstrip("/")

    @field_validator("console_metrics_urls")
    @classmethod
    def _http(cls, value: str) -> str:
        if not all(is_address(url, "http", "https") for url in _parted(value)):
            raise ValueError("should hold addresses such as http://10.0.0.5:9100/metrics")
        return value

    @property
    def token(self) -> str | None:
        return self.console_token.get_secret_value() if self.console_token else None

    @property
    def metrics_urls(self) -> tuple[str, ...]:
        return _parted(self.console_metrics_urls)

    def check(self) -> None:
        """Raises SettingsError for a console that would be open to other machines."""
        if self.token is None and not is_loopback(self.console_host):
            raise SettingsError(
                f"CONSOLE_HOST: {self.console_host} lets other machines in, and what they would see is private: "
                "set CONSOLE_TOKEN, for example to $(openssl rand -hex 24)"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address. Names other than localhost count as no."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_address(text: str, *schemes: str) -> bool:
    """Whether this is an address with one of the schemes, a host, and a port that is one or left out."""
    try:
        parts = urlsplit(text)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def url(host: str, port: int) -> str:
    """Where a browser on this machine finds it."""
    name = "localhost" if host in ("127.0.0.1", "0.0.0.0", "::", "::1") else host  # noqa: S104 a comparison
    return f"http://{name}:{port}"


def _parted(text: str) -> tuple[str, ...]:
    return tuple(url.strip() for url in text.split(",") if url.strip())
