"""One real stack for all conformance tests: Redis, the english worker and its weights, the ingress, each a process.

And a second one whose ingress speaks TLS only, for the clients that speak nothing else.
"""

import http.client
from collections.abc import Callable, Iterator

import pytest
import trustme

from cli.up import Stack
from tests.clients import SecureStack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Ready to serve. No test may leave it otherwise."""
    with Stack() as running:
        yield running
        running.check()


@pytest.fixture
def url(stack: Stack) -> str:
    """Where clients connect, without a path. Fails a test before which a process has died."""
    stack.check()
    return stack.url


@pytest.fixture(scope="session")
def pro_stack() -> Iterator[Stack]:
    """One that serves the U3 family."""
    with Stack(pools=("u3pro",)) as running:
        yield running
        running.check()


@pytest.fixture
def pro_url(pro_stack: Stack) -> str:
    """The same for one test. Fails a test before which a process has died."""
    pro_stack.check()
    return pro_stack.url


@pytest.fixture(scope="session")
def secure_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureStack]:
    """Ready to serve `wss://`, with a certificate for localhost from an authority made for this run."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    ca_file, cert_file, key_file = (folder / name for name in ("ca.pem", "cert.pem", "key.pem"))
    authority.cert_pem.write_to_path(ca_file)
    certificate.private_key_pem.write_to_path(key_file)
    for link in certificate.cert_chain_pems:
        link.write_to_path(cert_file, append=True)
    with Stack(env={"TLS_CERT_FILE": str(cert_file), "TLS_KEY_FILE": str(key_file)}) as running:
        yield SecureStack(running, ca_file)
        running.check()


@pytest.fixture
def secure(secure_stack: SecureStack) -> SecureStack:
    """The same for one test. Fails a test before which a process has died."""
    secure_stack.stack.check()
    return secure_stack


@pytest.fixture
def metric() -> Callable[[Stack, str], float]:
    """`metric(stack, 'name{label="value"}')`: what the ingress counts under this name by now."""

    def read(running: Stack, name: str) -> float:
        connection = http.client.HTTPConnection("127.0.0.1", running.probe_ports["ingress"], timeout=5)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))

    return read
