"""What videos look like, against sums over pixels."""

import numpy as np
import pytest

from seedbed.errors import BadInput
from seedbed.verifiers.appearance import METRICS, look, structural_similarity


def test_what_videos_look_like_against_sums_over_pixels():
    rng = np.random.default_rng(0)
    videos = [rng.integers(0, 256, (4, 5, 6, 3), dtype=np.uint8), np.zeros((4, 5, 6, 3), np.uint8)]
    found = look(videos)
    x = videos[0].astype(float) / 255
    frames, height, width, _ = x.shape
    motion = np.mean([np.abs(x[t + 1] - x[t]) for t in range(frames - 1)])
    flicker = np.mean([np.abs(x[t] - 2 * x[t + 1] + x[t + 2]) for t in range(frames - 2)])
    down = np.mean([np.abs(x[:, i + 1] - x[:, i]) for i in range(height - 1)])
    across = np.mean([np.abs(x[:, :, i + 1] - x[:, :, i]) for i in range(width - 1)])
    expected = dict(zip(METRICS, (motion, flicker, (down + across) / 2), strict=True))
    for name in METRICS:
        assert found[name] == pytest.approx([expected[name], 0.0])


def test_an_image_has_sharpness_alone():
    found = look([np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3), dtype=np.uint8)])
    assert found["movement"] == found["flicker"] == 0 and found["sharpness"] > 0


def test_structural_similarity_against_the_formula_window_by_window():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (2, 14, 13, 3), dtype=np.uint8)
    y = np.clip(x + rng.normal(0, 40, x.shape), 0, 255).astype(np.uint8)
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    found = []
    for a, b in zip(x, y, strict=True):
        a, b = (each.astype(float) @ [0.299, 0.587, 0.114] for each in (a, b))
        for row in range(4):
            for column in range(3):
                p, q = (each[row : row + 11, column : column + 11] for each in (a, b))
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                both = (window * (p - mp) * (q - mq)).sum()
                c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
                found.append((2 * mp * mq + c1) * (2 * both + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    assert structural_similarity(x, y) == pytest.approx(np.mean(found), abs=1e-9)
    assert structural_similarity(x, x) == 1
    with pytest.raises(BadInput, match="cannot be compared"):
        structural_similarity(x, y[:1])
