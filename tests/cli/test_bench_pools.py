"""`cli.bench_pools`: every pool can be measured, by a name that leads to it, in languages that are recorded."""

import pytest

from cli import bench_pools, spoken
from cli.bench_pools import BENCHES, HEARD
from wire.errors import SettingsError
from wire.params import parse_query
from workers.entry import POOLS


@pytest.mark.parametrize("pool", POOLS)
def test_every_pool_can_be_measured(pool) -> None:
    assert bench_pools.of(pool).pool == pool


@pytest.mark.parametrize("pool", BENCHES)
def test_the_model_leads_to_the_pool(pool) -> None:
    assert parse_query([("speech_model", BENCHES[pool].speech_model)]).pool == pool


@pytest.mark.parametrize("pool", BENCHES)
def test_its_languages_are_recorded(pool) -> None:
    assert set(BENCHES[pool].languages) <= set(HEARD.get(pool, BENCHES[pool].languages))
    assert set(HEARD.get(pool, BENCHES[pool].languages)) <= set(spoken.RECORDINGS)


def test_files_are_called_after_the_pool_but_for_the_first() -> None:
    assert (BENCHES["english"].named("worker"), BENCHES["multilang"].named("worker")) == (
        "worker",
        "worker-multilang",
    )


def test_a_pool_that_nobody_serves_is_told_with_those_that_are() -> None:
    with pytest.raises(SettingsError, match="no such pool: klingon; there are: english"):
        bench_pools.of("klingon")
