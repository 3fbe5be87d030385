"""The tests of what decides about trust and money notice every comparison that is turned (`tests/mutations.py`)."""

import pytest

from tests.mutations import survivors


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", ["licensing/trust.py", "usage/batch.py"])
def test_no_flip_survives(path: str):
    left, count = survivors(path)
    assert count > 20
    assert left == []
