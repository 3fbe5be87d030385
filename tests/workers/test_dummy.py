import pytest
import torch

from workers import dummy
from workers.models.fastconformer import FastConformer, FastConformerConfig


def test_shapes_are_the_published_ones():
    sizes = {}
    for name, shape in dummy.SHAPES.items():
        with torch.device("meta"):
            sizes[name] = sum(weight.numel() for weight in FastConformer(shape, 0).parameters())
    assert all(6.0e8 < size < 6.6e8 for size in sizes.values()), sizes


def test_a_name_that_is_none_is_refused():
    with pytest.raises(ValueError, match="dummy:nemotron-en"):
        dummy.build("dummy:other", 0)


def test_building_twice_gives_the_same_network(monkeypatch: pytest.MonkeyPatch):
    small = FastConformerConfig(
        hidden_size=32,
        num_hidden_layers=1,
        intermediate_size=32,
        subsampling_conv_channels=4,
        decoder_hidden_size=16,
    )
    monkeypatch.setitem(dummy.SHAPES, "small", small)
    one, two = (dummy.build("dummy:small", 3).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
