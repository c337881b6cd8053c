"""Images and videos that a pipeline is given are encoded once for all candidates and runs."""

import pytest

import seedbed
from tests.pipelines import FAMILIES, PROMPT, Family

GIVEN = [
    family
    for family in FAMILIES
    if family.name.startswith(("CogVideoX,", "Wan")) and {"image", "video"} & family.call.keys()
]


def counted(vae, asked):
    """Counts, on the instance, as whoever else may have put something there."""
    encode = vae.encode

    def count(*args, **options):
        asked.append(1)
        return encode(*args, **options)

    vae.encode = count
    return count


@pytest.mark.parametrize("family", GIVEN, ids=lambda family: family.name)
def test_what_is_given_is_encoded_once(family: Family):
    pipe = family.build()
    plain = seedbed.generate(pipe, PROMPT, candidates=2, acquisition="bansa", progress=False, **family.call)
    assert "encode" not in vars(pipe.vae)
    asked: list[int] = []
    ours = counted(pipe.vae, asked)
    made = seedbed.generate(pipe, PROMPT, candidates=2, acquisition="bansa", progress=False, **family.call)
    assert len(asked) == (2 if "VACE" in family.name else 1) and vars(pipe.vae)["encode"] is ours
    assert made.sha256 == plain.sha256
