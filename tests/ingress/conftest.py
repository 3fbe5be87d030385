"""Fixtures of the tests of ingress."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Pair
from tests.nodes import Nodes, OwnRedis


@pytest.fixture
def nodes(redis_url: str, namespace: str, wait_until: Callable[..., Any]) -> Nodes:
    return Nodes(redis_url, namespace, wait_until)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


@pytest.fixture
def own_redis(free_port: Callable[[], int], tmp_path: Path) -> Iterator[OwnRedis]:
    found = OwnRedis(free_port(), tmp_path)
    yield found
    found.stop()
