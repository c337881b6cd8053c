from types import SimpleNamespace

import pytest

from seedbed import BadInput, NotSupported
from seedbed.selection.layers import Plan, plan

LAYERS = [
    SimpleNamespace(name=f"blocks.{block}.{part}", kind=kind)
    for block in range(3)
    for part, kind in (("attn1", "self"), ("attn2", "cross"))
]


def test_all_layers_by_default():
    assert plan(LAYERS) == Plan({i: i for i in range(6)}, tuple(layer.name for layer in LAYERS), 6, 6)


@pytest.mark.parametrize(
    ("wanted", "indices", "depth"),
    [
        ("self", [0, 2, 4], 5),
        ("cross", [1, 3, 5], 6),
        ("blocks.1.*", [2, 3], 4),
        (["blocks.0.attn2", "self"], [0, 1, 2, 4], 5),
        (("blocks.[02].attn1",), [0, 4], 5),
    ],
)
def test_a_kind_a_glob_or_several(wanted, indices, depth):
    found = plan(LAYERS, wanted)
    assert found.columns == {index: column for column, index in enumerate(indices)}
    assert found.names == tuple(LAYERS[index].name for index in indices)
    assert (found.depth, found.total) == (depth, 6)


def test_depth_cuts_the_wanted_layers():
    assert plan(LAYERS, "self", 3) == Plan({0: 0, 2: 1}, ("blocks.0.attn1", "blocks.1.attn1"), 3, 6)
    assert plan(LAYERS, "self", 4).depth == 4
    assert plan(LAYERS, None, 1).names == ("blocks.0.attn1",)


@pytest.mark.parametrize(
    ("wanted", "depth", "message"),
    [
        (None, 7, "depth 7 is beyond the last layer: the denoiser has 6"),
        (None, 0, "depth must be a whole number of at least 1, not 0"),
        (None, True, "depth must be a whole number"),
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
        plan(LAYERS, wanted, depth)


def test_a_model_without_attention_is_refused():
    with pytest.raises(NotSupported, match="no softmax attention"):
        plan([])
