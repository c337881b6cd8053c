"""The formulas of refinement against slow float64 versions of the papers', and at their edges."""

import math

import numpy as np
import pytest
import torch

from seedbed.errors import BadInput
from seedbed.noise.gaussianity import leaves_shell
from seedbed.refinement.formulas import add_direction, erase, guide_noise, inject, interpolate, rotate

SHAPE = (4, 8, 10, 12)


def draw(seed, *batch):
    return torch.randn(*batch, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 2, 8, 50])
def test_erasure_stays_gaussian(n):
    noises = draw(1, n)
    erased = erase(noises)
    assert torch.equal(erased, erase(each for each in noises))
    wanted = sum(each.numpy() for each in noises) / np.sqrt(n)
    assert np.abs(erased.numpy() - wanted).max() < 1e-12
    assert leaves_shell(erased) == ""
    cosine = (erased * noises[0]).sum() / erased.norm() / noises[0].norm()
    assert cosine.item() == pytest.approx(1 / math.sqrt(n), abs=5 / math.sqrt(noises[0].numel()))


def test_injection_is_the_formula_of_the_paper():
    noise, seen = draw(2), []

    def predict(z, t):
        seen.append(z)
        return torch.sin(z * t)

    times, weights, delta = [0.9, 0.5, 0.1], [0.2, 0.5, 0.3], 0.4
    found = inject(noise, predict, times, weights=weights, delta=delta, rescale="none")
    z = noise.numpy()
    total = sum(w * np.sin(z * t) for w, t in zip(weights, times, strict=True))
    wanted = (z + delta * total / math.sqrt(sum(w**2 for w in weights))) / math.sqrt(1 + delta**2)
    assert np.abs(found.numpy() - wanted).max() < 1e-12
    assert all(z is noise for z in seen)  # all predictions at the same z


@pytest.mark.parametrize("rescale", ["standardise", "spherical"])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("delta", [0.1, 0.8, 5.0])
def test_correlated_predictions_leave_the_shell_only_as_published(rescale, sign, delta):
    noise = draw(3)
    direction = 0.95 * noise + math.sqrt(1 - 0.95**2) * draw(4)
    kept = add_direction(noise, direction, delta, sign=sign, rescale=rescale)
    assert kept.norm().item() == pytest.approx(noise.norm().item(), rel=1e-12) and leaves_shell(kept) == ""
    if sign == 1 and delta < 5:
        published = add_direction(noise, direction, delta, rescale="none")
        wanted = math.sqrt((1 + delta**2 + 1.9 * delta) / (1 + delta**2))
        assert published.std().item() == pytest.approx(wanted, rel=0.02) and leaves_shell(published)


def test_spherical_is_as_published_where_the_terms_are_orthogonal():
    noise, other = draw(5), draw(6)
    other = other - noise * (noise * other).sum() / noise.square().sum()
    other = other * noise.norm() / other.norm()
    for delta in (0.1, 0.5, 2.0):
        spherical = add_direction(noise, other, delta, rescale="spherical")
        assert (spherical - add_direction(noise, other, delta, rescale="none")).abs().max() < 1e-12


@pytest.mark.parametrize("rescale", ["standardise", "spherical", "none"])
def test_a_huge_strength_leaves_the_direction_alone(rescale):
    noise, other = draw(5), draw(6)
    other = other - noise * (noise * other).sum() / noise.square().sum()
    found = inject(noise, lambda z, t: other, [0, 1], weights=[1e200, 0], delta=1e200, rescale=rescale)
    assert torch.cosine_similarity(found.flatten(), other.flatten(), 0).item() == pytest.approx(1, abs=1e-4)
    assert found.norm().item() == pytest.approx(noise.norm().item(), rel=0.05)


def test_strength_zero_leaves_the_noise_bit_by_bit():
    noise = draw(7)
    for rescale in ("standardise", "spherical", "none"):
        assert torch.equal(add_direction(noise, draw(8), 0.0, rescale=rescale), noise)
    assert torch.equal(interpolate(noise, draw(8), 0), noise)
    assert torch.equal(rotate(noise, 3 * noise, 0.5), noise)


def test_interpolation_stays_on_the_shell_and_ends_where_it_says():
    start, end = draw(9), draw(10)
    assert torch.equal(interpolate(start, end, 1), end)
    angle = math.acos((start * end).sum().item() / start.norm().item() / end.norm().item())
    for share in (0.1, 0.5, 0.9):
        between = interpolate(start, end, share)
        assert leaves_shell(between) == ""
        cosine = (between * start).sum().item() / between.norm().item() / start.norm().item()
        assert math.acos(cosine) == pytest.approx(share * angle, abs=0.02)
    assert (interpolate(start, start.clone(), 0.5) - start).abs().max() < 1e-12


def test_guidance_of_the_noise():
    noise, goal = draw(11), draw(12)
    found = guide_noise(noise, lambda z: 0.1 * (z - goal), steps=3, rate=0.5, clip=0.04)
    z, radius = noise.numpy(), noise.norm().item()
    for _ in range(3):
        step = 0.05 * (z - goal.numpy())
        step *= min(1, 0.04 * radius / np.linalg.norm(step))
        z = z - step
        z *= radius / np.linalg.norm(z)
    assert np.abs(found.numpy() - z).max() < 1e-12
    assert torch.equal(guide_noise(noise, torch.zeros_like, steps=1), noise * 1.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda z: add_direction(z, z, -0.1),
        lambda z: add_direction(z, z, math.inf),
        lambda z: add_direction(z, z, math.nan),
        lambda z: add_direction(z, z, 0.1, sign=0),
        lambda z: add_direction(z, z, 0.1, rescale="round"),
        lambda z: inject(z, lambda z, t: z, []),
        lambda z: inject(z, lambda z, t: z, [1], weights=[1, 2]),
        lambda z: inject(z, lambda z, t: z, [1, 2], weights=[0, 0]),
        lambda z: inject(z, lambda z, t: z, [1], weights=[10**400]),
        lambda z: add_direction(z, z, 10**400),
        lambda z: interpolate(z, z, "half"),
        lambda z: guide_noise(z, lambda z: z, steps=2.5),
        lambda z: interpolate(z, z, 1.5),
        lambda z: guide_noise(z, lambda z: z, steps=0),
    ],
)
def test_bad_input_is_one_line(make):
    with pytest.raises(BadInput) as caught:
        make(draw(0))
    assert "\n" not in str(caught.value)
