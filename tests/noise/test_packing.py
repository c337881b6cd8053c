"""Packings found from the order of their elements are the permutations that pipelines apply."""

import math

import pytest
import torch

from seedbed.noise.packing import Packing

PACKINGS = {
    "as it is": ((2, 3, 4), lambda x: x),
    "tokens": ((4, 3, 2, 2), lambda x: x.flatten(1).T),
    "patches of 2 x 2": (
        (4, 6, 8),
        lambda x: x.view(4, 3, 2, 4, 2).permute(1, 3, 0, 2, 4).reshape(12, 16),
    ),
    "patches of frames": (
        (3, 4, 4, 6),
        lambda x: x.view(3, 2, 2, 2, 2, 3, 2).permute(1, 3, 5, 0, 2, 4, 6).reshape(12, 24),
    ),
    "axes swapped": ((5, 2, 3), lambda x: x.transpose(0, 1)),
    "axes of one element": ((1, 3, 1), lambda x: x.transpose(0, 2)),
    "one element": ((1,), lambda x: x),
}


@pytest.mark.parametrize("name", PACKINGS)
def test_a_packing_is_found_from_its_order_alone(name):
    shape, pack = PACKINGS[name]
    order = pack(torch.arange(math.prod(shape)).view(shape))
    found = Packing.of(shape, order.flatten())
    assert found is not None and found.shape == shape
    noise = torch.randn(shape)
    assert torch.equal(found.pack(noise, tuple(order.shape)), pack(noise))
    # Also of a noise that lies otherwise in memory.
    assert torch.equal(found.pack(noise.T.contiguous().T, tuple(order.shape)), pack(noise))
    assert all(type(number) is int for number in (*found.extents, *found.strides))


@pytest.mark.parametrize(
    "order",
    [[0, 0, 1, 1], [0, 2, 1, 5], [1, 0, 3, 2], [3, 2, 1, 0], [0, 1, 3, 2], [0, 1, 2, 3, 5, 4], [0, 4, 8, 12]],
)
def test_what_is_no_packing_is_none(order):
    assert Packing.of((len(order),), torch.tensor(order)) is None
