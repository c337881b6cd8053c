"""Noise maps: inversion against diffusers' own sampler, statistics against slow loops and known α."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from scipy.optimize import minimize_scalar

from seedbed.adaptation.trajectory import inverted
from seedbed.errors import BadInput, NotSupported
from seedbed.lab.noise_maps import analyse, denoise, invert, similarity
from seedbed.noise import Gaussian, Mixed, Progressive
from seedbed.pipelines.encoding import encoding_of
from seedbed.pipelines.session import Session
from seedbed.report.video import write_video
from seedbed.training.config import Videos, World
from seedbed.training.denoisers import Model
from seedbed.worlds import shapes
from tests.cli.conftest import seedbed
from tests.pipelines import animatediff
from tests.training.conftest import image_pipeline

__all__ = ["seedbed"]  # the fixture

SCHEDULERS = {
    "epsilon": dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    "v_prediction": dict(prediction_type="v_prediction", rescale_betas_zero_snr=True),
}


def image_model(kind):
    """A tiny image model that samples in the levels of the analysis; its output is small, to contract."""
    pipe = image_pipeline()
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(0.03)
    pipe.scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing", **SCHEDULERS[kind])
    return pipe


def video(number=0):
    return shapes.render(next(shapes.scenes(number)))


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_the_pipelines_own_sampler_makes_the_latents_of_the_inverted_noise(kind):
    model = Model(image_model(kind), {})
    clips = torch.from_numpy(video())[None, :2]
    latents, said = model.encode(clips)[0].transpose(0, 1), model.embed(["a red circle"])
    noise = invert(model, latents, said, steps=5, passes=25)
    assert noise.shape == latents.shape and noise.dtype == torch.float64
    made = model.pipe(
        "a red circle",
        num_images_per_prompt=2,
        latents=noise.float(),
        num_inference_steps=5,
        guidance_scale=1.0,
        output_type="latent",
    ).images
    assert float((made - latents).abs().max()) < 2e-4 * float(latents.abs().max())
    back = denoise(model, noise, said, steps=5)
    assert float((back - made.double()).abs().max()) < 2e-4 * float(latents.abs().max())
    # One pass is further off, and so is not the inversion itself.
    rough = denoise(model, invert(model, latents, said, steps=5, passes=1), said, steps=5)
    assert float((rough - latents).abs().max()) > 3 * float((back - latents).abs().max())


class Ideal(torch.nn.Module):
    """The best denoiser of latents that are independent N(0, deviation²), in float64."""

    def __init__(self, pipe, deviation):
        super().__init__()
        scheduler = pipe.scheduler
        self.kind, self.powers = scheduler.config.prediction_type, scheduler.alphas_cumprod.double()
        self.deviation, self.dtype, self.device = deviation, torch.float64, torch.device("cpu")

    def forward(self, sample, timestep, words, return_dict):
        power = self.powers[timestep].view(-1, 1, 1, 1)
        alpha, sigma = power.sqrt(), (1 - power).sqrt()
        variance = power * self.deviation**2 + sigma**2
        epsilon, clean = sigma / variance * sample, alpha * self.deviation**2 / variance * sample
        return (epsilon if self.kind == "epsilon" else alpha * epsilon - sigma * clean,)


@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize("prior", [Mixed(1.0), Progressive(2.0)])
def test_of_gaussian_latents_the_noise_is_known_and_so_is_its_alpha(kind, prior):
    """Solved exactly, x_t = x_0 √(α² s² + σ²)/s: the noise correlates as the latents do."""
    pipe = image_model(kind)
    model = SimpleNamespace(pipe=pipe, denoiser=Ideal(pipe, 0.5))
    clean = torch.from_numpy(drawn(prior, videos=20, frames=6, elements=(4, 10, 10))).view(120, 4, 10, 10) / 2
    noise = invert(model, clean, torch.zeros(1, 2, 3), steps=250, passes=4)
    last = float(pipe.scheduler.alphas_cumprod[-1])
    expected = clean * math.sqrt(last * 0.25 + 1 - last) / 0.5
    assert float((noise - expected).abs().max()) < 0.03 * float(expected.abs().max())
    found = similarity(noise.view(20, 6, -1).numpy())
    assert getattr(found, prior.name).alpha.mean == pytest.approx(prior.alpha, rel=0.03)


def test_it_is_the_inversion_of_an_edit_frame_by_frame():
    model = Model(image_model("epsilon"), {})
    session = Session(model.pipe, "a red circle", num_inference_steps=5, guidance_scale=1.0)
    frame = np.repeat(np.repeat(video()[:1], 2, 1), 2, 2)[:, : encoding_of(session).pixels[-2]]
    frame = frame[:, :, : encoding_of(session).pixels[-1]]
    whole = inverted(session, frame, passes=15)
    latents = model.encode(torch.from_numpy(frame)[None])[0].transpose(0, 1)
    mine = invert(model, latents, model.embed(["a red circle"]), steps=5, passes=15)
    assert whole.note == ""
    assert float((mine[0] - whole.noise.double().view_as(mine[0])).abs().max()) < 1e-3


def drawn(prior, videos=40, frames=8, elements=(4, 12, 12)):
    generator = np.random.default_rng(3)
    maps = [prior.draw((frames, *elements), 0, generator).numpy() for _ in range(videos)]
    return np.stack(maps).reshape(videos, frames, -1).astype(np.float64)


@pytest.mark.parametrize("prior", [Mixed(1.0), Mixed(0.5), Progressive(2.0), Progressive(0.7), Gaussian()])
def test_noise_of_a_known_prior_gives_its_alpha(prior):
    found = similarity(drawn(prior))
    own = prior.correlation(8)[0]
    for lag, interval in enumerate(found.lags, 1):
        assert interval.mean == pytest.approx(own[lag], abs=0.015)
    if isinstance(prior, Gaussian):
        assert abs(found.same.mean) < 0.01 and found.mixed.alpha.mean < 0.1
        assert found.progressive.alpha.mean < 0.1
        return
    fit, other = getattr(found, prior.name), found.mixed if prior.name != "mixed" else found.progressive
    assert fit.alpha.mean == pytest.approx(prior.alpha, rel=0.02)
    assert fit.alpha.low <= fit.alpha.mean <= fit.alpha.high < fit.alpha.low * 1.05
    assert fit.residual.mean < 0.01 and 5 * fit.residual.mean < other.residual.mean
    # Which of the two it is, surely.
    assert found.difference.high < 0 if prior.name == "mixed" else found.difference.low > 0


def test_what_all_videos_share_is_no_correlation_of_frames():
    bias = np.random.default_rng(8).standard_normal(4 * 12 * 12)
    plain, shifted = (similarity(drawn(Mixed(1.0)) + each * bias) for each in (0, 2))
    assert shifted.cross.mean > 0.6 and abs(plain.cross.mean) < 0.01
    assert shifted.mixed.alpha.mean == pytest.approx(1.0, rel=0.03)
    assert similarity(drawn(Gaussian()) + 2 * bias).mixed.alpha.mean < 0.1


def test_the_statistics_are_those_of_slow_loops():
    generator = np.random.default_rng(0)
    maps = generator.normal(0.3, 1, (4, 5, 30)) + generator.normal(0, 1, (4, 1, 30))
    found = similarity(maps)

    def cosine(a, b):
        return float(a @ b / math.sqrt((a @ a) * (b @ b)))

    frames = range(5)
    same = [[cosine(v[i], v[j]) for i in frames for j in frames if i != j] for v in maps]
    pairs = [(maps[a], maps[b]) for a in range(4) for b in range(4) if a != b]
    two = [cosine(v[i], w[j]) for v, w in pairs for i in frames for j in frames]
    assert found.same.mean == pytest.approx(np.mean(same), abs=1e-12)
    assert found.cross.mean == pytest.approx(np.mean(two), abs=1e-12)
    assert found.excess.mean == pytest.approx(np.mean(same) - np.mean(two), abs=1e-12)
    common = np.mean([np.corrcoef(v[i], w[j])[0, 1] for v, w in pairs for i in frames for j in frames])
    lags = [
        np.mean([np.corrcoef(v[i], v[i + lag])[0, 1] for v in maps for i in range(5 - lag)])
        for lag in range(1, 5)
    ]
    lags = [(each - common) / (1 - common) for each in lags]
    assert [each.mean for each in found.lags] == pytest.approx(lags, abs=1e-12)
    # Least squares over the ten pairs of frames.
    curve = np.repeat(lags, [4, 3, 2, 1])
    power = np.repeat([1, 2, 3, 4], [4, 3, 2, 1])
    for fit, model in (
        (found.mixed, lambda ratio: np.full(10, ratio)),
        (found.progressive, lambda ratio: ratio**power),
    ):
        best = minimize_scalar(
            lambda ratio, model=model: np.square(curve - model(ratio)).sum(),
            bounds=(0, 1),
            method="bounded",
            options={"xatol": 1e-12},
        )
        squared = best.x if model(0.5)[0] == model(0.5)[-1] else best.x**2
        assert fit.alpha.mean == pytest.approx(math.sqrt(squared / (1 - squared)), rel=1e-5)
        assert fit.residual.mean == pytest.approx(math.sqrt(best.fun / 10), rel=1e-6)


def test_the_interval_between_videos_is_that_of_a_slow_bootstrap():
    maps = drawn(Mixed(0.5), videos=6, frames=3, elements=(20,))
    found = similarity(maps, draws=400, seed=1)
    unit = maps / np.linalg.norm(maps, axis=2, keepdims=True)
    counts = np.random.default_rng(1).multinomial(6, np.full(6, 1 / 6), size=400)
    means = []
    for count in counts[(counts > 0).sum(1) > 1]:
        chosen = np.repeat(np.arange(6), count)
        # A video drawn twice is no pair of videos.
        pairs = [unit[a] @ unit[b].T for a in chosen for b in chosen if a != b]
        means.append(np.mean(pairs))
    assert found.cross[1:] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=1e-12)


@pytest.mark.slow
def test_the_analysis_of_a_world_and_of_files_tells_the_same(tmp_path):
    pipe = image_model("epsilon")
    found = analyse(pipe, World(world="shapes", count=5), 4, steps=5, passes=6, progress=False)
    assert (found.videos, found.frames, found.complaint) == (5, 4, "")
    assert found.maps.same.low > found.leak.same.high > 0.0 > found.independent.same.low
    assert 0 < found.error < 0.05
    assert found.prior.split(":")[0] in ("mixed", "progressive")
    assert found.table.to_text().count("\n") == 3 + 3 + 2 * 2 + 1
    again = analyse(pipe, World(world="shapes", count=5), 4, steps=5, passes=6, batch_size=3, progress=False)
    assert again.maps.same.mean == pytest.approx(found.maps.same.mean, abs=1e-4)

    for number in range(5):
        write_video(tmp_path / f"{number}.mp4", video(number), 8, {})
        (tmp_path / f"{number}.txt").write_text("a shape")
    (tmp_path / "x.mp4").write_bytes(b"none")
    (tmp_path / "x.txt").write_text("none")
    data = Videos(videos=str(tmp_path), fps=8, height=32, width=32)
    files = analyse(pipe, data, 4, steps=5, progress=False)
    # Two clips of four frames in each file, of which the first is taken.
    assert files.videos == 5 and files.complaint.startswith("1 of 6 files: x.mp4")
    assert files.maps.same.low > files.leak.same.high


def test_independent_maps_call_for_independent_noise():
    pipe = image_model("epsilon")
    found = analyse(pipe, World(world="shapes", count=4), 3, steps=2, progress=False)
    nothing = type(found)(4, 3, found.independent, found.independent, found.independent, 0.0)
    assert nothing.prior == "gaussian"


def test_mistakes_are_one_line():
    world = World(world="shapes", count=5)
    with pytest.raises(NotSupported, match="AnimateDiffPipeline is not"):
        analyse(animatediff((8, 16)), world, 4)
    pipe = image_model("epsilon")
    with pytest.raises(BadInput, match="frames must be a whole number of at least 3"):
        analyse(pipe, world, 2)
    with pytest.raises(BadInput, match="steps must be at most 1000"):
        analyse(pipe, world, 4, steps=1001)
    with pytest.raises(BadInput, match="passes must be a whole number of at least 1, not 0"):
        analyse(pipe, world, 4, passes=0)
    with pytest.raises(BadInput, match="3 videos are too few"):
        analyse(pipe, World(world="shapes", count=3), 4, steps=2, progress=False)
    with pytest.raises(BadInput, match="noise maps must be finite"):
        similarity(np.full((3, 4, 5), np.nan))


def test_the_command(seedbed, tmp_path: Path):
    image_model("epsilon").save_pretrained(tmp_path / "model")
    asked = ("noise", "fit", "--model", tmp_path / "model", "--world", "shapes", "--count", 4)
    code, out, err = seedbed(*asked, "--frames", 3, "--steps", 4)
    assert (code, err) == (0, "") and "cosine, same video" in out and "\nprior   " in out
    code, out, err = seedbed(*asked, "--frames", 3, "--steps", 4, "--json")
    found = json.loads(out)
    assert code == 0 and found["videos"] == 4 and len(found["maps"]["lags"]) == 2
    for wrong, said in (
        (("noise", "fit"), "either --videos PATH or --world"),
        ((*asked, "--guidance-scale", 3), "without guidance"),
        ((*asked, "--height", 64), "leave --height"),
    ):
        code, out, err = seedbed(*wrong)
        assert (code, out) == (2, "") and said in err
