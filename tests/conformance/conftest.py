"""One real stack for all conformance tests: Redis, the english worker and its weights, the ingress, each a process."""

from collections.abc import Iterator

import pytest

from cli.up import Stack


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
