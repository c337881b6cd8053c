"""The pipelines that the benchmarks run: the embedded model, and CogVideoX-2B with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from architectures import ARCHITECTURES
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXPipeline

from seedbed import zoo

STEPS = 50


@dataclass(frozen=True)
class Subject:
    """A pipeline and the call that is compared.

    Attributes:
        name: what tables call it.
        call: arguments of the pipeline's call, prompt included.
        depth: attention layers that the published method scores.
        whole: whether plain generations are run whole, or one step is timed and counted `STEPS` times.
    """

    name: str
    pipe: Any
    call: dict[str, Any]
    depth: int
    whole: bool


def embedded(device: str) -> Subject:
    """The embedded model, as many steps as CogVideoX takes; the published d* of 14 in 30 layers is 3 in 6."""
    pipe = zoo.load().to(device)
    pipe.set_progress_bar_config(disable=True)
    call = {"prompt": "a red circle moving left", "num_inference_steps": STEPS, "guidance_scale": 6.0}
    return Subject("embedded model", pipe, {**call, "max_sequence_length": 12}, 3, whole=True)


def cogvideox_2b(device: str, size: tuple[int, int, int]) -> Subject:
    """CogVideoX-2B's denoiser, full depth and width, bfloat16, random weights, random prompt embeddings.

    Latents are never decoded, so the autoencoder only says by how much it would compress.

    Args:
        size: frames, height, width of the video.
    """
    torch.manual_seed(0)
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(4, 4, 4, 4), latent_channels=16, layers_per_block=1, norm_num_groups=1
    )
    scheduler = CogVideoXDDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=3.0,
        timestep_spacing="trailing",
    )
    architecture = ARCHITECTURES[0]
    pipe = CogVideoXPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae.to(device),
        transformer=architecture.build().to(device),
        scheduler=scheduler,
    )
    pipe.set_progress_bar_config(disable=True)
    embeds = torch.randn(2, *architecture.text, generator=torch.Generator().manual_seed(1))
    positive, negative = embeds.to(device, torch.bfloat16).split(1)
    frames, height, width = size
    call = {
        "prompt_embeds": positive,
        "negative_prompt_embeds": negative,
        "num_frames": frames,
        "height": height,
        "width": width,
        "num_inference_steps": STEPS,
        "guidance_scale": 6.0,
    }
    return Subject("CogVideoX-2B", pipe, call, architecture.published_depth, whole=False)
