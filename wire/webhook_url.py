"""Where a webhook may go and what it may carry, told from its parameters alone (protocol 2.4).

A client makes this machine send a request, so it must not be able to reach what only this machine can: the metadata
service of a cloud, which hands out credentials, and whatever answers on a link. Private networks and loopback are
allowed, because that is where the hooks of an operator live. A name can lead anywhere: `is_refused` is for whoever
resolves it, too, before connecting.

The checks raise ValueError with a text that goes to the client behind pydantic's "Value error, ".
"""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

MAX_URL_CHARACTERS = 2048
MAX_HEADER_VALUE_CHARACTERS = 4096
MAX_HEADER_NAME_CHARACTERS = 128

_REFUSED = [
    ip_network(network)
    for network in (
        "0.0.0.0/8",  # "this host"
        "169.254.0.0/16",  # link-local, and the metadata service of most clouds
        "100.100.100.200/32",  # metadata: Alibaba
        "168.63.129.16/32",  # platform services: Azure
        "192.0.0.192/32",  # metadata: Oracle
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "::/128",
        "fe80::/10",  # link-local
        "ff00::/8",  # multicast
        "fd00:ec2::/32",  # metadata: Amazon
        "fd20:ce::254/128",  # metadata: Google
    )
]
#: Prefixes whose last four bytes are an IPv4 address that a router or the system itself turns them into.
_EMBEDDING = [ip_network("::/96"), ip_network("::ffff:0:0/96"), ip_network("64:ff9b::/96")]

#: What the request itself says, or what would change how it is read (RFC 9110, 7.6.1).
_RESERVED_HEADERS = {
    *("connection", "content-encoding", "content-length", "content-type", "expect", "host", "keep-alive"),
    *("proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "user-agent"),
}

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, 5.6.2
_VISIBLE = re.compile(r"[!-~]+")
_FIELD_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")


def check_url(url: str) -> None:
    """Refuse a `webhook_url` that is no plain http(s) URL, or names an address that must not be reached."""
    if len(url) > MAX_URL_CHARACTERS:
        raise ValueError(f"webhook_url must have at most {MAX_URL_CHARACTERS} characters")
    if not _VISIBLE.fullmatch(url) or "\\" in url:  # readers of URLs disagree about the rest
        raise ValueError("webhook_url must be percent-encoded ASCII without spaces")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("webhook_url is not a valid URL") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError("webhook_url must begin with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("webhook_url must not contain a user name or password")
    if not host or port == 0 or not _is_host(host, bracketed="[" in parts.netloc):
        raise ValueError("webhook_url must name a host")
    if (address := _address(host)) and is_refused(address):
        raise ValueError("webhook_url must not point to a link-local, metadata or multicast address")


def check_header_name(name: str) -> None:
    """Refuse a `webhook_auth_header_name` that is no header's name, or one that the request sets itself."""
    if len(name) > MAX_HEADER_NAME_CHARACTERS or not _TOKEN.fullmatch(name):
        raise ValueError("webhook_auth_header_name is not a valid header name")
    if name.lower() in _RESERVED_HEADERS:
        raise ValueError(f"webhook_auth_header_name must not be '{name}'")


def check_header_value(value: str) -> None:
    """Refuse a `webhook_auth_header_value` that could not be sent as it is. The text does not repeat it."""
    if len(value) > MAX_HEADER_VALUE_CHARACTERS or not _FIELD_VALUE.fullmatch(value):
        raise ValueError(
            f"webhook_auth_header_value must be 1 to {MAX_HEADER_VALUE_CHARACTERS} printable ASCII characters"
        )


def is_refused(address: IPv4Address | IPv6Address) -> bool:
    """Whether no webhook may be sent to `address`, in whatever form it is written."""
    if any(address.version == network.version and address in network for network in _REFUSED):
        return True
    return any(map(is_refused, _embedded(address)))


def _embedded(address: IPv4Address | IPv6Address) -> list[IPv4Address]:
    """The IPv4 addresses that packets to `address` may end at."""
    if isinstance(address, IPv4Address) or address.is_loopback:
        return []
    found = [address.sixtofour, *(address.teredo or ())]
    if any(address in network for network in _EMBEDDING):
        found.append(IPv4Address(address.packed[-4:]))
    return [inner for inner in found if inner is not None]


def _is_host(host: str, *, bracketed: bool) -> bool:
    if bracketed:  # a zone ("%eth0") would choose the link
        return "%" not in host and isinstance(_address(host), IPv6Address)
    return len(host) <= 253 and bool(_HOST_NAME.fullmatch(host))


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
