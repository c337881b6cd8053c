"""Images and videos that a pipeline is given are encoded once for all candidates and runs."""

from itertools import combinations

import pytest
import torch
from torch import Tensor

import seedbed
from tests.pipelines import FAMILIES, PROMPT, Family

GIVEN = [
    family
    for family in FAMILIES
    if family.name.startswith(("CogVideoX,", "Wan")) and {"image", "video"} & family.call.keys()
]


def watched(vae, encoded):
    """Keeps what is encoded; on the instance, as whoever else may have put something there."""
    encode = vae.encode

    def watch(picture, *args, **options):
        encoded.append(picture.clone())
        return encode(picture, *args, **options)

    vae.encode = watch
    return watch


@pytest.mark.parametrize("family", GIVEN, ids=lambda family: family.name)
def test_what_is_given_is_encoded_once(family: Family):
    pipe = family.build()
    plain = seedbed.generate(pipe, PROMPT, candidates=2, acquisition="bansa", progress=False, **family.call)
    assert "encode" not in vars(pipe.vae)
    encoded: list[Tensor] = []
    ours = watched(pipe.vae, encoded)
    made = seedbed.generate(pipe, PROMPT, candidates=2, acquisition="bansa", progress=False, **family.call)
    assert encoded and vars(pipe.vae)["encode"] is ours
    for one, other in combinations(encoded, 2):
        assert not torch.equal(one, other)
    assert made.sha256 == plain.sha256
