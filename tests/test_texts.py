"""Objects as texts: what is typed makes the object, and what records keep makes it again."""

import pytest

from seedbed.errors import BadInput
from seedbed.noise import Covariance, Gaussian, Mixed, Progressive, Shuffled, Torch, prior_named
from seedbed.noise.priors import PRIORS
from seedbed.refinement import REFINERS, Erasure, Variation, Walk, refiners_named
from seedbed.texts import parse, text_of

OBJECTS = [
    (Gaussian(), "gaussian"),
    (Torch(), "torch"),
    (Torch("bfloat16"), "torch:dtype=bfloat16"),
    (Mixed(1), "mixed:alpha=1.0"),
    (Progressive(0.1), "progressive:alpha=0.1"),
    (Shuffled(8, 2), "shuffled:window=8,stride=2"),
    (Covariance([[1, 0.5], [0.5, 1]]), "covariance:matrix=[[1.0,0.5],[0.5,1.0]]"),
    (Erasure(3), "erasure:n=3"),
    (Variation(0.25, 2), "variation:strength=0.25,index=2"),
    (Walk(0.5, 7), "walk:share=0.5,candidate=7"),
    (Walk(1, 7, 3), "walk:share=1.0,candidate=7,seed=3"),
]


@pytest.mark.parametrize(("thing", "text"), OBJECTS)
def test_an_object_and_its_text(thing, text):
    assert text_of(thing) == text
    kinds = PRIORS if thing.name in PRIORS else REFINERS
    assert parse(kinds, "kind", text) == thing


def test_the_first_option_may_go_without_its_name():
    assert prior_named("mixed:1") == Mixed(1) and prior_named(" shuffled: 8, stride=2") == Shuffled(8, 2)
    assert refiners_named(["erasure:4", Variation(), "walk:0.5,candidate=3"]) == (
        Erasure(4),
        Variation(),
        Walk(0.5, 3),
    )
    assert refiners_named(None) == () and refiners_named("erasure") == (Erasure(8),)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: prior_named("mixed:alpha=-1"), "alpha must be a finite number of at least 0, not -1"),
        (lambda: prior_named("mixed:1,2"), "cannot read '2' in noise prior 'mixed:1,2': write option=value"),
        (lambda: prior_named("mixed:weight=1"), "mixed has no option 'weight': it has alpha"),
        (lambda: prior_named("gaussian:1"), "write option=value"),
        (lambda: prior_named("gaussian:a=1"), "gaussian has no option 'a': it has none"),
        (lambda: prior_named("torch:int8"), "torch draws in float32, float16"),
        (lambda: prior_named("covariance"), "covariance needs matrix: write covariance:matrix=..."),
        (lambda: prior_named(3), "no noise prior 3: choose one of gaussian"),
        (lambda: refiners_named("erase"), "no refiner 'erase': choose one of erasure, injection"),
        (lambda: refiners_named("erasure:n=0"), "erasure's n must be a whole number from 1 to 10000, not 0"),
        (lambda: refiners_named("erasure:n=1.5"), "erasure's n must be a whole number"),
        (
            lambda: refiners_named(["variation:1.5"]),
            "a variation's strength must be a finite number from 0 to 1",
        ),
        (lambda: refiners_named("variation:nan"), "a variation's strength must be"),
        (lambda: refiners_named("walk:0.5"), "walk needs candidate: write walk:candidate=..."),
        (lambda: refiners_named(8), "no refiner 8"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(read, message):
    with pytest.raises(BadInput) as caught:
        read()
    assert message in str(caught.value) and "\n" not in str(caught.value)
