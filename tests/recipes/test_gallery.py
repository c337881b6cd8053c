"""docs/gallery.md: its pictures are those of its script, small, and each has the command that makes it."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recipes.gallery.make import FIGURES, GAP, LABEL, PICTURES, PRIORS, noise

PAGE = (Path(__file__).parents[2] / "docs/gallery.md").read_text()


def test_every_picture_is_shown_once_and_has_its_command():
    shown = re.findall(r"^!\[.+\]\(figures/gallery-(\w+)\.png\)$", PAGE, re.MULTILINE)
    assert shown == re.findall(r"^python recipes/gallery/make\.py (\w+)$", PAGE, re.MULTILINE) == [*PICTURES]
    files = [*FIGURES.glob("gallery-*.png")]
    assert {path.stem.removeprefix("gallery-") for path in files} == {*PICTURES}
    assert sum(path.stat().st_size for path in files) < 600_000


@pytest.mark.parametrize("line", range(len(PRIORS)), ids=PRIORS)
def test_the_noises_are_those_of_the_picture(line):
    """Frames are drawn alike everywhere, by numpy; the letters beside them are not."""
    pixels, tiles = np.asarray(Image.open(FIGURES / "gallery-priors.png")), noise(PRIORS[line])
    side = 24 * 4 + GAP
    top = GAP + line * side
    for column, tile in enumerate(tiles[:-1]):
        left = LABEL + column * side
        assert np.array_equal(pixels[top : top + side - GAP : 4, left : left + side - GAP : 4], tile)


def test_frames_are_as_alike_as_is_said():
    *_, one, other = noise("gaussian")[:-1]
    assert not np.array_equal(one, other)
    assert len({frame.tobytes() for frame in noise("repeated")[:-1]}) == 1
