"""What the architectures share: places in a cache, masks, keys and values of all layers."""

import pytest
import torch

from workers.models.decoder import Cross, Hint, Opening, attention_weights, crossed, key_bias, places


def test_tokens_go_where_their_positions_say() -> None:
    at = places(torch.tensor([[2, 3], [0, 1]]), 4, room=10, dtype=torch.float32)
    assert at.entries.tolist() == [2, 3, 10, 11]
    assert at.length == 4
    assert at.bias is not None
    seen = (at.bias == 0)[:, 0].tolist()
    assert seen[0] == [[True, True, True, False], [True] * 4]
    assert seen[1] == [[True, False, False, False], [True, True, False, False]]


def test_one_token_that_sees_everything_needs_no_mask() -> None:
    assert places(torch.tensor([[3], [3]]), 4, 10, torch.float32).bias is None
    assert places(torch.tensor([[3], [1]]), 4, 10, torch.float32).bias is not None


def test_keys_behind_a_rows_own_are_not_seen() -> None:
    bias = key_bias(torch.tensor([1, 3]), 3, torch.float32)
    assert bias.shape == (2, 1, 1, 3)
    assert bias[0, 0, 0].tolist() == [0.0, -torch.inf, -torch.inf]
    weights = attention_weights(torch.ones(2, 1, 1, 4), torch.randn(2, 1, 3, 4), bias)
    assert weights[0, 0, 0].tolist() == [1.0, 0.0, 0.0]
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 1, 1))


def test_each_layer_has_its_own_keys_and_values() -> None:
    both = torch.arange(2 * 3 * 2 * 2 * 4, dtype=torch.float32).view(2, 3, 16)  # two layers of width 4
    cross = crossed(both, heads=2, layers=2, count=torch.tensor([3, 3]), aligned={1: [0]})
    assert cross.bias is None
    assert cross.keys[1].shape == (2, 2, 3, 2)
    assert cross.keys[0][0, :, 0].flatten().tolist() == [0, 1, 2, 3]
    assert cross.values[0][0, :, 0].flatten().tolist() == [4, 5, 6, 7]
    assert cross.keys[1][0, :, 0].flatten().tolist() == [8, 9, 10, 11]
    torch.testing.assert_close(cross.aligned[1], cross.keys[1][:, :1])


def test_rows_are_taken_with_all_that_is_theirs() -> None:
    cross = crossed(torch.randn(3, 5, 8), 2, 1, torch.tensor([5, 2, 4]), {0: [1]})
    assert cross.bias is not None
    some = cross.rows(torch.tensor([2, 0]))
    torch.testing.assert_close(some.values[0], cross.values[0][[2, 0]])
    torch.testing.assert_close(some.aligned[0], cross.aligned[0][[2, 0]])
    assert some.bias is not None
    torch.testing.assert_close(some.bias, cross.bias[[2, 0]])
    assert Cross(cross.keys, cross.values, None).rows(torch.tensor([1])).bias is None


def test_a_row_repeated_is_that_row_several_times() -> None:
    cross = crossed(torch.randn(3, 5, 8), 2, 1, torch.tensor([5, 2, 4]), {0: [1]})
    again = cross.repeated(1, 4)
    for mine, theirs in (
        (again, cross.rows(torch.tensor([1] * 4))),
        (cross.repeated(2, 1), cross.rows(torch.tensor([2]))),
    ):
        torch.testing.assert_close(mine.keys[0], theirs.keys[0])
        torch.testing.assert_close(mine.values[0], theirs.values[0])
        torch.testing.assert_close(mine.aligned[0], theirs.aligned[0])
        torch.testing.assert_close(mine.bias, theirs.bias)
    assert again.keys[0].untyped_storage().data_ptr() == cross.keys[0].untyped_storage().data_ptr()  # no copy
    assert Cross(cross.keys, cross.values, None).repeated(0, 2).bias is None


@pytest.mark.parametrize("value", [Hint(), Opening((1,))])
def test_what_is_known_of_a_row_cannot_be_changed_under_way(value: object) -> None:
    with pytest.raises(AttributeError):
        value.language = "en"  # type: ignore[attr-defined]
