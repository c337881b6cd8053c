from types import SimpleNamespace

import pytest

from seedbed import BadInput
from seedbed.acquisition.scoring import plan_layers

LAYERS = [
    SimpleNamespace(name=f"blocks.{block}.{part}", kind=kind)
    for block in range(3)
    for part, kind in (("attn1", "self"), ("attn2", "cross"))
]


def test_all_layers_by_default():
    assert plan_layers(LAYERS) == (0, 1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("wanted", "indices"),
    [
        ("self", (0, 2, 4)),
        ("cross", (1, 3, 5)),
        ("blocks.1.*", (2, 3)),
        (["blocks.0.attn2", "self"], (0, 1, 2, 4)),
        (("blocks.[02].attn1",), (0, 4)),
    ],
)
def test_a_kind_a_glob_or_several(wanted, indices):
    assert plan_layers(LAYERS, wanted) == indices


def test_depth_cuts_the_wanted_layers():
    assert plan_layers(LAYERS, "self", 3) == plan_layers(LAYERS, "self", 4) == (0, 2)
    assert plan_layers(LAYERS, None, 1) == (0,)


@pytest.mark.parametrize(
    ("wanted", "depth", "message"),
    [
        (None, 7, "depth 7 is beyond the last layer: the denoiser has 6"),
        (
            "temporal",
            None,
            "no layer matches 'temporal': the kinds here are 'cross', 'self', and",
        ),
        ([], None, "no layer matches an empty list"),
        ([3], None, "layers must be kinds or globs"),
        ("blocks.2.*", 4, "number 5, beyond depth 4"),
    ],
)
def test_what_cannot_be_is_refused(wanted, depth, message):
    with pytest.raises(BadInput, match=message):
        plan_layers(LAYERS, wanted, depth)


def test_a_share_of_depth_counts_the_wanted_layers():
    assert plan_layers(LAYERS, None, 0.5) == (0, 1, 2)
    assert plan_layers(LAYERS, "self", 2 / 3) == (0, 2)
    assert plan_layers(LAYERS, None, 1.0) == plan_layers(LAYERS)
    assert plan_layers(LAYERS, None, 0.01) == (0,)
