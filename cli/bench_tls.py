"""A certificate for a benchmark's ingress, from an authority that lives as long as the run."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from cli.bench_machine import tool

#: The name that the certificate is for, and that clients look for.
NAME = "localhost"


@dataclass(frozen=True)
class Certificate:
    """PEM files: the authority's, and the server's chain and key."""

    authority: Path
    chain: Path
    key: Path

    def env(self) -> dict[str, str]:
        """The ingress's settings."""
        return {"TLS_CERT_FILE": str(self.chain), "TLS_KEY_FILE": str(self.key)}

    def trusting(self) -> ssl.SSLContext:
        """A client's context, which verifies the server as any client does."""
        return ssl.create_default_context(cafile=self.authority)


def make(folder: Path) -> Certificate:
    """A new authority's certificate for NAME, as files in `folder`. Raises ToolMissing."""
    authority = tool("trustme").CA()
    issued = authority.issue_cert(NAME)
    found = Certificate(folder / "authority.pem", folder / "chain.pem", folder / "key.pem")
    authority.cert_pem.write_to_path(found.authority)
    issued.private_key_pem.write_to_path(found.key)
    for link in issued.cert_chain_pems:
        link.write_to_path(found.chain, append=True)
    return found
