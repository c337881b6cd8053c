"""FreeInit against diffusers' own, and on pipelines where diffusers has none."""

import itertools
import math

import numpy as np
import pytest
import torch
from diffusers.pipelines import free_init_utils

from seedbed.errors import BadInput
from seedbed.noise import NoiseRecipe
from seedbed.noise.filters import low_pass, mix_frequencies
from seedbed.pipelines.session import Session
from seedbed.refinement import DenoiseInvert, FreeInit, correlate_steps, refiners_named
from seedbed.texts import text_of
from tests.conftest import slow
from tests.pipelines import CALLS, FAMILIES, PROMPT, animatediff


def recipe_of(session, prior="gaussian"):
    return NoiseRecipe(0, 0, tuple(session.spec.shape), prior, session.spec.frame_axis)


@pytest.mark.parametrize(
    "options",
    [
        {},
        *map(slow, ({"shape": "gaussian", "stop": 0.4, "frame_stop": 0.2}, {"shape": "ideal"}, {"order": 2})),
    ],
    ids=str,
)
def test_is_the_freeinit_of_diffusers(options, monkeypatch):
    """The noises that its own loop begins with, given the same fresh ones."""
    pipe, call = animatediff(), CALLS["animatediff"]
    session = Session(pipe, PROMPT, **call)
    recipe = recipe_of(session)
    noise = recipe.draw()
    ours = FreeInit(2, **options).refine(noise.clone(), session, recipe)
    fresh = iter([recipe.beside(1), recipe.beside(2)])
    monkeypatch.setattr(free_init_utils, "randn_tensor", lambda **_: next(fresh)[None])
    theirs, own = [], pipe._apply_free_init

    def applied(*args):
        latents, timesteps = own(*args)
        theirs.append(latents[0].clone())
        return latents, timesteps

    pipe.enable_free_init(
        num_iters=3,
        method=options.get("shape", "butterworth"),
        order=options.get("order", 4),
        spatial_stop_frequency=options.get("stop", 0.25),
        temporal_stop_frequency=options.get("frame_stop", 0.25),
    )
    monkeypatch.setattr(pipe, "_apply_free_init", applied, raising=False)
    pipe(PROMPT, latents=noise[None].clone(), output_type="latent", **call)
    assert torch.equal(theirs[0], noise)
    assert (ours - theirs[2]).abs().max() < 1e-5 and (theirs[1] - theirs[2]).abs().max() > 0.1


def slowly_mixed(low, fresh, keep_variance):
    """In float64, a frequency after another, of (channels, [frames,] height, width)."""
    lengths, axes = low.shape[1:], tuple(range(1, low.ndim))
    spectra = [np.fft.fftn(each.double().numpy(), axes=axes) for each in (low, fresh)]
    grid = itertools.product(*map(range, lengths))
    passing = {
        place: 1
        / (
            1
            + (sum((2 * n / length - 1) ** 2 for n, length in zip(place, lengths, strict=True)) / 0.0625) ** 4
        )
        for place in grid
    }
    for place in itertools.product(*map(range, lengths)):
        # fftshift: frequency k is in place k + length // 2; a real tensor's are in pairs of k and -k.
        at = [tuple((s * k + n // 2) % n for k, n in zip(place, lengths, strict=True)) for s in (1, -1)]
        passes = (passing[at[0]] + passing[at[1]]) / 2
        other = math.sqrt(1 - passes**2) if keep_variance else 1 - passes
        here = (slice(None), *place)
        spectra[0][here] = spectra[0][here] * passes + spectra[1][here] * other
    return torch.from_numpy(np.fft.ifftn(spectra[0], axes=axes).real)


@pytest.mark.parametrize("name", ["cogvideox", "ltx", slow("sdxl"), slow("wan")])
def test_goes_where_diffusers_has_none(name, pipe_of):
    """Any order of axes, packed latents, images; the level of a step, also where samples grow with sigma."""
    pipe, call = pipe_of(name), {**CALLS[name], "num_inference_steps": 3}
    session = Session(pipe, PROMPT, **call)
    recipe = recipe_of(session)
    noise, fresh = recipe.draw(), recipe.beside(1)
    clean = pipe(PROMPT, latents=noise[None].clone(), output_type="latent", **call)[0].reshape(noise.shape)
    scheduler = session.alone.scheduler

    def spread(latents):
        """Channels first."""
        if name == "ltx":
            side = 32 // pipe.vae_spatial_compression_ratio
            return pipe._unpack_latents(latents[None], len(latents) // side**2, side, side)[0]
        return latents.movedim(1, 0) if name == "cogvideox" else latents

    for options in ({"time": 0.5}, {"keep_variance": True}):
        step = 1 if "time" in options else 0
        if name in ("ltx", "wan"):
            sigma = float(scheduler.sigmas[step])
            alpha = 1 - sigma
        else:
            power = float(scheduler.alphas_cumprod[int(scheduler.timesteps[1]) if step else -1])
            alpha, sigma = math.sqrt(power), math.sqrt(1 - power)
        low = spread(alpha * clean + sigma * noise)
        wanted = slowly_mixed(low, spread(fresh), "keep_variance" in options)
        session.ledger.entries.clear()
        how = FreeInit(**options)
        found = how.refine(noise.clone(), session, recipe)
        assert found.shape == noise.shape
        assert (spread(found) - wanted).abs().max() < 1e-4
        assert session.ledger.to_dict() == {"refinement": how.evaluations(session)} == {"refinement": 6}


def test_without_rounds_the_noise_stays(pipe_of):
    session = Session(pipe_of("cogvideox"), PROMPT, **CALLS["cogvideox"])
    noise = recipe_of(session).draw()
    assert FreeInit(0).refine(noise, session, recipe_of(session)) is noise
    assert FreeInit(0).evaluations(session) == 0 and not session.ledger.entries


def test_stochastic_steps_of_every_round_are_correlated_as_the_prior_is(pipe_of):
    session = Session(pipe_of("cogvideox"), PROMPT, **CALLS["cogvideox"])
    recipe, other = recipe_of(session, "mixed:1"), recipe_of(session)
    FreeInit(2).refine(other.draw(), session, other)
    assert not session.correlate
    noise = recipe.draw()
    correlate_steps(session, recipe, noise)
    FreeInit(2).refine(noise, session, recipe)
    assert len(session.correlate) == 2  # of the first round's noise, and of the second's


def test_says_where_the_low_frequencies_carry_nothing(pipe_of):
    for name, options, blind in [
        ("cogvideox", {}, True),
        ("cogvideox", {"time": 1}, False),
        ("ltx", {}, True),
    ]:
        session = Session(pipe_of(name), PROMPT, **CALLS[name])
        said = FreeInit(**options).caution(session)
        assert ("noises the video again where nothing is left of it" in said) == blind and "\n" not in said
        assert bool(said) == blind
    session = Session(pipe_of("cogvideox"), PROMPT, **CALLS["cogvideox"])
    recipe, passing = recipe_of(session), low_pass((3, 4, 4))
    noise = recipe.draw()
    at_first, at_last = (FreeInit(time=time).refine(noise, session, recipe) for time in (0, 1))
    own = mix_frequencies(noise.movedim(1, 0), recipe.beside(1).movedim(1, 0), passing).movedim(0, 1)
    assert (at_first - own).abs().max() < 1e-5 < 1e-3 < (at_last - own).abs().max()


def test_options_of_numpy_are_kept_as_pythons_own():
    how = FreeInit(np.int64(2), stop=np.float32(0.5), frame_stop=np.float64(1), order=np.int32(3))
    text = "freeinit:rounds=2,shape=butterworth,stop=0.5,frame_stop=1.0,order=3,keep_variance=false"
    assert text_of(how) == text and refiners_named(text) == (how,)


@pytest.mark.parametrize(("steps", "later"), [(2, "time=0.5"), (6, "time=0.1"), (1, "num_inference_steps")])
def test_the_time_that_is_advised_has_signal(pipe_of, steps, later):
    session = Session(pipe_of("cogvideox"), PROMPT, **{**CALLS["cogvideox"], "num_inference_steps": steps})
    said = FreeInit().caution(session)
    assert said.endswith(later)
    if steps > 1:
        assert FreeInit(time=float(later.removeprefix("time="))).caution(session) == ""


def test_bad_input_is_one_line(pipe_of):
    for make in (
        lambda: FreeInit(-1),
        lambda: FreeInit(time=1.5),
        lambda: FreeInit(time=math.nan),
        lambda: FreeInit(shape="round"),
        lambda: FreeInit(stop=0),
        lambda: FreeInit(order=0),
        lambda: FreeInit(keep_variance=1),
        lambda: FreeInit(stop="abc"),
        lambda: FreeInit(frame_stop=math.inf),
        *(lambda order=order: FreeInit(order=order) for order in ("4", math.nan, 2.5, True, 10**400)),
    ):
        with pytest.raises(BadInput) as caught:
            make()
        assert "\n" not in str(caught.value)
    (family,) = (family for family in FAMILIES if family.name == "CogVideoX, video to video")
    session = Session(family.built(), PROMPT, **family.call)
    for how in (FreeInit(), DenoiseInvert()):
        with pytest.raises(BadInput, match="adds its noise to what it is given"):
            how.refine(torch.zeros(session.spec.shape), session, None)
