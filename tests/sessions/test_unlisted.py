"""Pipelines that nobody listed: they work, or fail with one line that says what was missing."""

from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.utils.torch_utils import randn_tensor

import seedbed
from seedbed.acquisition import Previews
from seedbed.errors import BadInput, NotSupported, SeedbedError
from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session
from tests.pipelines import CALLS, PROMPT, ltx, wan
from tests.pipelines.parts import image_vae, picture, quiet
from tests.sessions.previews import preview

QUIET = dict(acquisition="bansa", progress=False)


class Unlisted(DiffusionPipeline):
    """Denoises latents (4, 3, 2, 2) with what it calls its denoiser; text is as long as the prompt."""

    scale_that_is_off = 1.0

    def __init__(self, denoiser, scheduler=None):
        super().__init__()
        self.register_modules(denoiser=denoiser, scheduler=scheduler)

    @property
    def do_classifier_free_guidance(self):
        return self._guidance_scale > self.scale_that_is_off

    def prepare_latents(self, batch_size, generator, latents=None, image=None):
        return randn_tensor((batch_size, 4, 3, 2, 2), generator=generator) if latents is None else latents

    @torch.no_grad()
    def __call__(
        self,
        prompt=None,
        image=None,
        num_inference_steps=2,
        guidance_scale=4.0,
        generator=None,
        latents=None,
        output_type="np",
    ):
        prompts = [prompt] if isinstance(prompt, str) else prompt
        text = torch.stack([torch.full((8, 16), len(prompt) / 20) for prompt in prompts])
        self._guidance_scale = guidance_scale
        latents = self.prepare_latents(len(prompts), generator, latents, image)
        timesteps = torch.linspace(1000, 500, num_inference_steps)
        if self.scheduler is not None:
            self.scheduler.set_timesteps(num_inference_steps)
            timesteps = self.scheduler.timesteps
        for t in timesteps:
            times = t.expand(len(latents))
            velocity = self.denoiser(latents, times, text, return_dict=False)[0]
            if self.do_classifier_free_guidance:
                other = self.denoiser(latents, times, 0 * text, return_dict=False)[0]
                velocity = other + guidance_scale * (velocity - other)
            if self.scheduler is not None:
                latents = self.scheduler.step(velocity, t, latents, return_dict=False)[0]
            else:
                latents = latents - velocity / num_inference_steps
        return SimpleNamespace(frames=latents[:, :3].permute(0, 2, 3, 4, 1).numpy() / 4 + 0.5)


@pytest.fixture(scope="module")
def denoiser():
    return wan().transformer.eval()


def scores(pipe, batch_size, **call):
    return seedbed.select(pipe, PROMPT, candidates=3, batch_size=batch_size, **QUIET, **call).scores


def test_a_denoiser_of_another_name_works(denoiser, tmp_path):
    pipe = Unlisted(denoiser, FlowMatchEulerDiscreteScheduler())
    session = Session(pipe, PROMPT)
    assert (session.facts.denoiser_name, session.facts.steps, session.facts.shares) == ("denoiser", 2, True)
    made = seedbed.generate(pipe, PROMPT, candidates=3, num_inference_steps=3, **QUIET)
    assert made.selection.ledger.entries["scoring"] <= 3
    expected = pipe(PROMPT, num_inference_steps=3, latents=made.selection.noise).frames[0]
    assert np.array_equal(made.frames, (expected.clip(0, 1) * 255).round().astype(np.uint8))
    assert seedbed.replay(made.save(tmp_path / "record.json"), pipe, progress=False).identical
    rollout = Rollout(session, torch.stack([made.selection.recipe.draw()]))
    assert rollout.advance(1)[0].shape == made.frames.shape


def test_without_a_scheduler_there_is_a_choice_but_no_preview(denoiser):
    pipe = Unlisted(denoiser)
    made = seedbed.generate(pipe, PROMPT, candidates=2, num_inference_steps=3, **QUIET)
    assert made.frames.shape == (3, 2, 2, 3)
    session = Session(pipe, PROMPT, num_inference_steps=3)
    assert session.facts.steps == 3
    with pytest.raises(NotSupported, match="Unlisted has no scheduler whose steps") as error:
        preview(session, torch.stack([made.selection.recipe.draw()]))
    assert "\n" not in str(error.value)


def test_a_guidance_scale_that_counts_from_zero_is_turned_off(denoiser):
    class FromZero(Unlisted):
        scale_that_is_off = 0.0

    for kind, scale in ((Unlisted, 1), (FromZero, 0)):
        session = Session(kind(denoiser, FlowMatchEulerDiscreteScheduler()), PROMPT)
        assert session.guidance == f"off by guidance_scale={scale}"
        session.evaluate(torch.zeros(1, *session.spec.shape), steps=2)
        assert session.ledger.total == 2


class OneImage(Unlisted):
    """Takes images for the first frames of one video, however many prompts there are."""

    def prepare_latents(self, batch_size, generator, latents=None, image=None):
        latents = super().prepare_latents(batch_size, generator, latents).clone()
        for frame, given in enumerate(image if isinstance(image, list) else [image]):
            latents[: 1 if batch_size > 1 else None, :, frame] = np.asarray(given).mean() / 255
        return latents


class ImageEach(OneImage):
    """Wants an image for every prompt."""

    def prepare_latents(self, batch_size, generator, latents=None, image=None):
        image = image if isinstance(image, list) else [image]
        if len(image) != batch_size:
            raise ValueError(f"{batch_size} images are wanted")
        rows = [None] * batch_size if latents is None else latents.split(1)
        generators = generator if isinstance(generator, list) else [generator] * batch_size
        prepare = super().prepare_latents
        return torch.cat([prepare(1, *row) for row in zip(generators, rows, image, strict=True)])


@pytest.mark.parametrize("kind, shares", [(ImageEach, True), (OneImage, False)])
def test_pictures_go_in_as_the_pipeline_wants_them(denoiser, kind, shares):
    pipe = kind(denoiser, FlowMatchEulerDiscreteScheduler())
    call = dict(image=picture(16))
    session = Session(pipe, PROMPT, **call)
    assert session.facts.shares is shares
    torch.testing.assert_close(scores(pipe, 1, **call), scores(pipe, 3, **call), rtol=1e-4, atol=1e-6)
    if not shares:
        with pytest.raises(NotSupported, match="OneImage takes one candidate in a forward: use batch_size=1"):
            session.evaluate(torch.zeros(2, *session.spec.shape))


def test_noise_that_is_added_to_what_is_given_is_the_candidate(denoiser, tmp_path):
    class FromVideo(Unlisted):
        def prepare_latents(self, batch_size, generator, latents=None, image=None):
            if latents is not None:
                return latents
            self.scheduler.set_timesteps(4)
            noise = randn_tensor((batch_size, 4, 3, 2, 2), generator=generator)
            return self.scheduler.scale_noise(
                torch.full_like(noise, 3.0), self.scheduler.timesteps[2:3], noise
            )

    pipe = FromVideo(denoiser, FlowMatchEulerDiscreteScheduler())
    session = Session(pipe, PROMPT)
    noise = torch.randn(2, *session.spec.shape, generator=torch.Generator().manual_seed(1))
    seen = []
    hook = denoiser.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    session.evaluate(noise)
    hook.remove()
    pipe.scheduler.set_timesteps(4)
    sigma = pipe.scheduler.sigmas[2]
    torch.testing.assert_close(seen[-1], sigma * noise + (1 - sigma) * 3.0)
    made = seedbed.generate(pipe, PROMPT, candidates=3, **QUIET)
    assert seedbed.replay(made.save(tmp_path / "record.json"), pipe, progress=False).identical
    assert "scale_noise" not in vars(pipe.scheduler)


class Ignores(Unlisted):
    """Draws its noise whatever it is given, and forgets to say so."""

    def prepare_latents(self, batch_size, generator, latents=None, image=None):
        return super().prepare_latents(batch_size, generator)


class TakesNone(Unlisted):
    @torch.no_grad()
    def __call__(self, prompt=None, num_inference_steps=2, generator=None, output_type="np"):
        return super().__call__(prompt, None, num_inference_steps, 1.0, generator, None, output_type)


@pytest.mark.parametrize("kind", [Ignores, TakesNone])
def test_a_noise_that_cannot_be_given_goes_in_where_it_is_drawn(denoiser, tmp_path, kind):
    pipe = kind(denoiser, FlowMatchEulerDiscreteScheduler())
    seen = []
    hook = denoiser.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    made = seedbed.generate(pipe, PROMPT, candidates=3, **QUIET)
    hook.remove()
    noise = made.selection.recipe.draw()
    assert any(torch.equal(batch[0], noise) for batch in seen[-4:])
    assert made.selection.scores.std(0).max() > 0
    other = seedbed.generate(pipe, PROMPT, candidates=1, seed=1, **QUIET)
    assert not np.array_equal(made.frames, other.frames)
    assert seedbed.replay(made.save(tmp_path / "record.json"), pipe, progress=False).identical


class Deaf(Unlisted):
    """Denoises the same whatever noise it is given, and draws none."""

    def prepare_latents(self, batch_size, generator, latents=None, image=None):
        return torch.ones(batch_size, 4, 3, 2, 2)

    @torch.no_grad()
    def __call__(self, prompt=None, num_inference_steps=2, generator=None, latents=None, output_type="np"):
        return super().__call__(prompt, None, num_inference_steps, 1.0, generator, None, output_type)


WAYS = {
    "select": lambda pipe: seedbed.select(pipe, PROMPT, candidates=3, batch_size=3, **QUIET),
    "one by one": lambda pipe: seedbed.select(pipe, PROMPT, candidates=3, batch_size=1, **QUIET),
    "one": lambda pipe: seedbed.select(pipe, PROMPT, candidates=1, **QUIET),
    "of the noise": lambda pipe: seedbed.select(pipe, PROMPT, candidates=3, acquisition="random"),
    "score": lambda pipe: seedbed.score(
        pipe, PROMPT, noises=torch.randn(2, 4, 3, 2, 2), acquisition="random"
    ),
    "generate": lambda pipe: seedbed.generate(pipe, PROMPT, candidates=1, **QUIET),
    "session": lambda pipe: Session(pipe, PROMPT).generate(torch.randn(4, 3, 2, 2)),
    "previews": lambda pipe: seedbed.select(
        pipe,
        PROMPT,
        candidates=2,
        acquisition=Previews(verifier=lambda videos, prompts: videos.mean((1, 2, 3, 4))),
    ),
    "contact sheet": lambda pipe: seedbed.contact_sheet(pipe, PROMPT, candidates=2, progress=False),
    "one on a sheet": lambda pipe: seedbed.contact_sheet(pipe, PROMPT, candidates=1, progress=False),
}


@pytest.mark.parametrize("way", WAYS)
def test_noise_that_never_arrives_is_refused_every_way(denoiser, way):
    pipe = Deaf(denoiser, FlowMatchEulerDiscreteScheduler())
    with pytest.raises(NotSupported, match="Deaf gives its denoiser the same whatever the noise") as error:
        WAYS[way](pipe)
    assert "\n" not in str(error.value)


def test_noise_that_never_arrives_is_refused_in_a_replay(denoiser):
    """As where the record was made when the pipeline still took it."""
    parts = (denoiser, FlowMatchEulerDiscreteScheduler())
    record = seedbed.generate(Unlisted(*parts), PROMPT, candidates=2, **QUIET).record()
    with pytest.raises(NotSupported, match="Unlisted gives its denoiser the same whatever the noise"):
        seedbed.replay(record, type("Unlisted", (Deaf,), {})(*parts), progress=False)


class DrawsLater(Unlisted):
    """Prepares zeros, and draws its noise after that, one candidate at a time (LTX for several prompts)."""

    def prepare_latents(self, batch_size, generator, latents=None, image=None):
        return torch.zeros(1, 4, 3, 2, 2) if latents is None else latents

    @torch.no_grad()
    def __call__(self, prompt=None, num_inference_steps=2, generator=None, latents=None, output_type="np"):
        prepared = self.prepare_latents(1, generator, latents)
        noise = randn_tensor(prepared.shape, generator=torch.Generator().manual_seed(0))
        prompt = prompt if isinstance(prompt, str) else prompt[0]
        plain = Unlisted(self.denoiser, self.scheduler)
        plain.prepare_latents = lambda *_: noise + 0 * prepared
        return plain(prompt, None, num_inference_steps, 1.0)


def test_noise_that_is_drawn_after_the_latents_are_prepared_is_the_candidate(denoiser, tmp_path):
    pipe = DrawsLater(denoiser, FlowMatchEulerDiscreteScheduler())
    seen = []
    hook = denoiser.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    made = seedbed.generate(pipe, PROMPT, candidates=3, **QUIET)
    hook.remove()
    assert len(made.selection.scores[:, 0].unique()) == 3
    assert torch.equal(seen[-2][0], made.selection.recipe.draw())
    assert seedbed.replay(made.save(tmp_path / "record.json"), pipe, progress=False).identical
    sheet = seedbed.contact_sheet(pipe, PROMPT, candidates=2, batch_size=2, progress=False)
    assert not np.array_equal(*sheet.selection.previews)


def test_ltx_for_several_prompts_takes_the_candidates_where_it_draws():
    """It prepares zeros, and takes a list of prompts for windows in time."""
    if not hasattr(diffusers, "LTXI2VLongMultiPromptPipeline"):
        pytest.skip("this diffusers is older than the pipeline")
    parts = {**ltx().components, "scheduler": diffusers.LTXEulerAncestralRFScheduler()}
    pipe = quiet(diffusers.LTXI2VLongMultiPromptPipeline(**parts))
    call = CALLS["ltx"] | dict(decode_horizontal_tiles=1, decode_vertical_tiles=1, guidance_scale=3.0)
    made = seedbed.generate(pipe, PROMPT, candidates=3, **QUIET, **call)
    session = Session(pipe, PROMPT, **call)
    assert session.facts.entry == "drawn later" and not session.facts.shares
    assert len(made.selection.scores[:, 0].unique()) == 3
    assert seedbed.replay(made.record(), pipe, progress=False).identical
    other = seedbed.generate(pipe, PROMPT, candidates=1, seed=1, **QUIET, **call)
    assert not np.array_equal(made.frames, other.frames)


class Fails(Unlisted):
    def prepare_latents(self, batch_size, generator, latents=None, image=None):
        return {}["sizes"]


class AddsTwice(Unlisted):
    def prepare_latents(self, batch_size, generator, latents=None, image=None):
        noise = super().prepare_latents(batch_size, generator)
        self.scheduler.set_timesteps(4)
        for t in self.scheduler.timesteps[1:3]:
            noise = self.scheduler.scale_noise(noise, t[None], noise)
        return noise


def test_latents_that_one_argument_makes_ignored_are_found_out_in_either_order(denoiser):
    class IgnoresWithImage(Unlisted):
        def prepare_latents(self, batch_size, generator, latents=None, image=None):
            return super().prepare_latents(batch_size, generator, None if image == "ignore" else latents)

    pipe = IgnoresWithImage(denoiser, FlowMatchEulerDiscreteScheduler())
    for image in ("look", "ignore", "look"):
        assert len(scores(pipe, 1, image=image)[:, 0].unique()) == 3


class DrawsTwice(Ignores):
    def prepare_latents(self, batch_size, generator, latents=None, image=None):
        super().prepare_latents(batch_size, generator)
        return super().prepare_latents(batch_size, generator)


class ReturnsNothing(Unlisted):
    def __call__(self, prompt=None, generator=None, latents=None, output_type="np"):
        super().__call__(prompt, generator=generator, latents=latents)
        return SimpleNamespace(text="")


class NeverCalls(Unlisted):
    def __call__(self, prompt=None, generator=None, latents=None, output_type="np"):
        self.prepare_latents(1, generator)


class Unprepared(Unlisted):
    prepare_latents = property()


@pytest.mark.parametrize(
    "kind, error, message",
    [
        (
            Unprepared,
            NotSupported,
            "Unprepared has no prepare_latents, so its initial noise cannot be chosen",
        ),
        (NeverCalls, NotSupported, "NeverCalls does not prepare latents and then call its denoiser"),
        (DrawsTwice, NotSupported, "DrawsTwice draws several noises of shape (1, 4, 3, 2, 2)"),
        (AddsTwice, NotSupported, "AddsTwice adds noise more than once to what it is given"),
        (Fails, BadInput, "Fails failed before its first evaluation: 'sizes'"),
    ],
)
def test_what_is_missing_is_said_in_one_line(denoiser, kind, error, message):
    with pytest.raises(SeedbedError) as raised:
        seedbed.select(kind(denoiser, FlowMatchEulerDiscreteScheduler()), PROMPT, candidates=2, **QUIET)
    assert type(raised.value) is error and message in str(raised.value) and "\n" not in str(raised.value)


def test_an_output_without_pixels_is_refused(denoiser):
    pipe = ReturnsNothing(denoiser, FlowMatchEulerDiscreteScheduler())
    with pytest.raises(
        NotSupported, match="ReturnsNothing returns a SimpleNamespace without frames or images"
    ):
        seedbed.generate(pipe, PROMPT, candidates=2, **QUIET)


def test_a_message_that_fills_a_screen_is_cut(denoiser):
    class Tells(Unlisted):
        def prepare_latents(self, batch_size, generator, latents=None, image=None):
            raise RuntimeError("no kernel\n" + "CPU: registered at RegisterCPU.cpp\n" * 100)

    pipe = Tells(denoiser, FlowMatchEulerDiscreteScheduler())
    with pytest.raises(BadInput, match=r"Tells failed before its first evaluation: no kernel CPU") as raised:
        seedbed.select(pipe, PROMPT, candidates=2, **QUIET)
    assert len(str(raised.value)) < 400 and str(raised.value).endswith(" ...")
    assert len(str(raised.value.__cause__)) > 3000


def test_a_pipeline_without_a_network_that_denoises_is_refused():
    class Decoder(Unlisted):
        def __init__(self, vae: AutoencoderKL):
            DiffusionPipeline.__init__(self)
            self.register_modules(vae=vae)

    with pytest.raises(NotSupported, match=r"Decoder has no transformer, unet or other network .* only vae$"):
        Session(Decoder(image_vae()), PROMPT)
