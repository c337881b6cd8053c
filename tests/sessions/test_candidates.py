"""Which arguments each candidate wants for itself is found by trying, not from their names."""

import numpy as np
import pytest
import torch
from diffusers import (
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionLatentUpscalePipeline,
    UNet2DConditionModel,
)

import seedbed
from seedbed.pipelines.session import Session
from tests.pipelines import PROMPT, animatediff_, svd, wan
from tests.pipelines.parts import clip, image_vae, picture, quiet, seeded, tokenizer
from tests.sessions.test_unlisted import Unlisted

QUIET = dict(acquisition="bansa", progress=False)


def upscaler():
    """Its U-Net embeds the noise level of the picture where others embed the guidance scale."""
    with seeded(5):
        unet = UNet2DConditionModel(
            block_out_channels=(8, 16),
            layers_per_block=1,
            sample_size=8,
            in_channels=8,
            out_channels=5,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            norm_num_groups=4,
            attention_head_dim=4,
            time_cond_proj_dim=128 + 16,
        )
        return quiet(
            StableDiffusionLatentUpscalePipeline(
                vae=image_vae(),
                text_encoder=clip(),
                tokenizer=tokenizer(12),
                unet=unet,
                scheduler=EulerDiscreteScheduler(prediction_type="sample"),
            )
        )


def frames(count):
    return [picture(16, seed) for seed in range(count)]


def controlled(count):
    return dict(
        height=16, width=16, num_frames=count, num_inference_steps=2, conditioning_frames=frames(count)
    )


class TwoPictures(Unlisted):
    """Wants an image for every prompt, and one mask for all."""

    def prepare_latents(self, batch_size, generator, latents=None, image=None):
        images, mask = image
        if batch_size > 1 and (len(images) != batch_size or isinstance(mask, list)):
            raise ValueError(f"{batch_size} images and one mask are wanted")
        latents = super().prepare_latents(batch_size, generator, latents).clone()
        for row, each in zip(latents, images if isinstance(images, list) else [images], strict=True):
            row[:, 0] = np.asarray(each).mean() / 255 * np.asarray(mask).mean() / 255
        return latents

    @torch.no_grad()
    def __call__(self, prompt=None, image=None, mask=None, generator=None, latents=None, output_type="np"):
        return super().__call__(prompt, (image, mask), 2, 1.0, generator, latents)


PIPELINES = {
    "as many frames as candidates are tried": (animatediff_.controlled, controlled(2), False, ()),
    "more frames": (animatediff_.controlled, controlled(3), False, ()),
    "one frame": (animatediff_.controlled, controlled(1), True, ()),
    "a picture": (upscaler, dict(image=picture(8), num_inference_steps=2), True, ("image",)),
    "a tensor": (upscaler, dict(image=torch.ones(1, 4, 4, 4), num_inference_steps=2), True, ("image",)),
    "a list": (upscaler, dict(image=[picture(8)], num_inference_steps=2), True, ("image",)),
    "one of two": (
        lambda: TwoPictures(wan().transformer.eval(), FlowMatchEulerDiscreteScheduler()),
        dict(image=picture(8), mask=picture(8, 1)),
        True,
        ("image",),
    ),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_four_candidates_are_what_each_is_alone(name):
    build, call, shares, repeats = PIPELINES[name]
    pipe = build()
    facts = Session(pipe, PROMPT, **call).facts
    assert (facts.shares, facts.repeats) == (shares, repeats)
    together = seedbed.generate(pipe, PROMPT, candidates=4, **QUIET, **call)
    alone = seedbed.select(pipe, PROMPT, candidates=4, batch_size=1, **QUIET, **call)
    torch.testing.assert_close(together.selection.scores, alone.scores, rtol=1e-4, atol=1e-6)
    missing = {name: call[name] for name in together.selection.missing}
    assert seedbed.replay(together.record(), pipe, progress=False, **missing).identical


@pytest.mark.slow
def test_frames_per_second_of_the_pipeline_reach_it_every_way(monkeypatch):
    """`fps` is an argument of Stable Video Diffusion, which conditions on it, and one of writing a file."""
    pipe, given = svd.svd(), []
    plain = type(pipe)._get_add_time_ids

    def watch(self, fps, *args, **options):
        given.append(fps)
        return plain(self, fps, *args, **options)

    monkeypatch.setattr(type(pipe), "_get_add_time_ids", watch)
    call = svd.FAMILIES[0].call
    made = {}
    for name, options in {"plain": {}, "fps": {"fps": 20}, "call": {"call": {"fps": 20}}}.items():
        given.clear()
        made[name] = seedbed.generate(pipe, candidates=2, **QUIET, **call, **options)
        expected = {6} if name == "plain" else {19}  # it counts from 0
        assert {*given} == expected
        given.clear()
        assert seedbed.replay(made[name].record(), pipe, image=call["image"], progress=False).identical
        assert {*given} == expected
        seedbed.select(pipe, candidates=2, **QUIET, **call, **options)
        sheet = seedbed.contact_sheet(pipe, candidates=2, progress=False, **call, **options)
        sheet.finish(0, progress=False, image=call["image"])
        assert {*given} == expected
    assert made["fps"].sha256 == made["call"].sha256 != made["plain"].sha256
    assert made["fps"].record(fps=5)["fps"] == 5 and made["fps"].record(fps=5)["call"]["fps"] == 20
