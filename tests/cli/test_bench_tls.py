"""`cli.bench_tls`: a server with the certificate is trusted by who trusts its authority, and by nobody else."""

import asyncio
import ssl

import pytest

from cli import bench_tls


async def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    listener = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=server)
    async with listener:
        _, writer = await asyncio.open_connection(
            "127.0.0.1", listener.sockets[0].getsockname()[1], ssl=client, server_hostname=bench_tls.NAME
        )
        writer.close()


def test_the_authority_is_trusted_and_no_other(tmp_path) -> None:
    certificate = bench_tls.make(tmp_path)
    assert set(certificate.env()) == {"TLS_CERT_FILE", "TLS_KEY_FILE"}
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate.chain, certificate.key)
    asyncio.run(_handshake(server, certificate.trusting()))
    with pytest.raises(ssl.SSLCertVerificationError):
        asyncio.run(_handshake(server, ssl.create_default_context()))
