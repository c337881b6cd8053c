"""A cascade: a latent video model, temporal interpolation of its latents, super-resolution of its frames.

The order is that of PYoCo (arXiv 2305.10474): a base of few small frames, then more frames, then larger ones.
Each later stage is a diffusion model of its own, which is given what the stage before it made beside its
noise, in more channels. What is chosen by its noise is the base.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from diffusers import AnimateDiffPipeline, UNetMotionModel
from diffusers.pipelines.animatediff.pipeline_output import AnimateDiffPipelineOutput
from torch import Tensor
from torch.nn import functional as F

from seedbed.errors import BadInput, finite, shown, whole
from seedbed.noise import prior_named

INTERPOLATION = "interpolation"
SUPER_RESOLUTION = ("super_resolution", "super_resolution_2")
STAGES = (INTERPOLATION, *SUPER_RESOLUTION)  # in the order in which they run


class CascadePipeline(AnimateDiffPipeline):  # type: ignore[misc]
    """An `AnimateDiffPipeline` whose latents are interpolated in time, and its frames made larger.

    A stage that is None is left out; without any, this is the base. A base that was interrupted, as for a
    preview, is decoded as it is.

    Args:
        vae, text_encoder, tokenizer, unet, scheduler, motion_adapter, feature_extractor, image_encoder: of
            the base.
        interpolation, super_resolution, super_resolution_2: the networks of the stages. Each takes noisy
            values (batch, c, frames, height, width), what it is conditioned on, and one channel that says
            where or how much, 2 c + 1 channels in all, and predicts c: of latents the first, of pixels the
            others.
        interpolation_scheduler, super_resolution_scheduler, super_resolution_2_scheduler: deterministic ones,
            such as `DDIMScheduler`.
        stages: of each stage that is there, by name: "factor", frames for one frame (n frames become
            (n − 1)·factor + 1), or pixels of a side for one pixel; "prior", of its noise ("gaussian" if left
            out); of super-resolution "augmentation", the greatest noise that it was trained to expect in
            what it is given (0 if left out).

    Raises:
        BadInput: a network without its scheduler or factor, of other channels, or another text.
    """

    model_cpu_offload_seq = (
        "text_encoder->image_encoder->unet->interpolation->vae->super_resolution->super_resolution_2"
    )
    _optional_components = [  # noqa: RUF012 - diffusers reads a list
        *("feature_extractor", "image_encoder", "motion_adapter"),
        *(part for name in STAGES for part in (name, f"{name}_scheduler")),
    ]

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        scheduler: Any,
        motion_adapter: Any = None,
        feature_extractor: Any = None,
        image_encoder: Any = None,
        interpolation: UNetMotionModel | None = None,
        interpolation_scheduler: Any = None,
        super_resolution: UNetMotionModel | None = None,
        super_resolution_scheduler: Any = None,
        super_resolution_2: UNetMotionModel | None = None,
        super_resolution_2_scheduler: Any = None,
        stages: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(
            vae, text_encoder, tokenizer, unet, motion_adapter, scheduler, feature_extractor, image_encoder
        )
        self.register_modules(
            interpolation=interpolation,
            interpolation_scheduler=interpolation_scheduler,
            super_resolution=super_resolution,
            super_resolution_scheduler=super_resolution_scheduler,
            super_resolution_2=super_resolution_2,
            super_resolution_2_scheduler=super_resolution_2_scheduler,
        )
        self.register_to_config(stages={name: dict(each) for name, each in (stages or {}).items()})
        for name in STAGES:
            if getattr(self, name) is not None:
                self._check(name)

    def _check(self, name: str) -> None:
        network, about = getattr(self, name).config, self.config.stages.get(name, {})
        if getattr(self, f"{name}_scheduler") is None or "factor" not in about:
            raise BadInput(f"{name} needs {name}_scheduler, and its factor in stages[{name!r}]")
        whole(f"the factor of {name}", about["factor"], 2)
        prior_named(about.get("prior", "gaussian"))
        finite(f"the augmentation of {name}", about.get("augmentation", 0.0), 0, 1)
        channels = self.vae.config.latent_channels if name == INTERPOLATION else self.vae.config.out_channels
        if (network.in_channels, network.out_channels) != (2 * channels + 1, channels):
            raise BadInput(
                f"{name} must make {channels} channels of {2 * channels + 1}, "
                f"not {network.out_channels} of {network.in_channels}"
            )
        if network.cross_attention_dim != self.unet.config.cross_attention_dim:
            raise BadInput(
                f"{name} reads text of width {network.cross_attention_dim}, but the base's has "
                f"{self.unet.config.cross_attention_dim}"
            )

    def sizes(self, num_frames: int, height: int, width: int) -> dict[str, tuple[int, int, int]]:
        """Frames, height and width in pixels that the base, and each stage that is there, makes.

        Raises BadInput where a stage has fewer positions than frames.
        """
        made = {"unet": (num_frames, height, width)}
        for name in STAGES:
            if (network := getattr(self, name)) is None:
                continue
            factor = self.config.stages[name]["factor"]
            if name == INTERPOLATION:
                num_frames = (num_frames - 1) * factor + 1
            else:
                height, width = height * factor, width * factor
            most = network.config.motion_max_seq_length
            if num_frames > most:
                raise BadInput(
                    f"{name} would make {num_frames} frames, but has {most} positions: ask for fewer"
                )
            made[name] = (num_frames, height, width)
        return made

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        num_frames: int = 16,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        negative_prompt: str | list[str] | None = None,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        decode_chunk_size: int = 16,
        base_only: bool = False,
        stage_steps: int = 20,
        stage_seed: int = 0,
        augmentation: float | None = None,
    ) -> Any:
        """Generate; arguments of the base, and the sizes, are those of `AnimateDiffPipeline`.

        Args:
            output_type: "latent" returns the base's latents.
            base_only: leaves the stages out.
            stage_steps: denoising steps of each stage, without guidance.
            stage_seed: of the noise of the stages, the same for every row of a batch. It is drawn by numpy,
                so `generator` is the base's alone.
            augmentation: how much noise what super-resolution is given gets, from 0 to the greatest it was
                trained with; None for half of that.

        Returns:
            `AnimateDiffPipelineOutput`, or a tuple with its frames.

        Raises:
            BadInput: more frames than a stage has positions, or a number that is none of these.
        """
        sides = [side or self.unet.config.sample_size * self.vae_scale_factor for side in (height, width)]
        self.sizes(num_frames, *sides)
        whole("stage_steps", stage_steps)
        whole("stage_seed", stage_seed, 0)
        for name in SUPER_RESOLUTION:
            if augmentation is not None and getattr(self, name) is not None:
                finite("augmentation", augmentation, 0, self.config.stages[name].get("augmentation", 0.0))
        made = super().__call__(
            prompt=prompt,
            num_frames=num_frames,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            eta=eta,
            generator=generator,
            latents=latents,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            output_type="latent",
            return_dict=False,
        )[0]
        video = made
        if output_type != "latent":
            words = None
            if not (base_only or self.interrupt):
                words = self.encode_prompt(
                    prompt, self._execution_device, 1, False, prompt_embeds=prompt_embeds
                )[0]
                if self.interpolation is not None:
                    made = self.interpolate(made, words, stage_steps, stage_seed)
            pixels = self.decode_latents(made, decode_chunk_size)
            for name in SUPER_RESOLUTION:
                if words is not None and getattr(self, name) is not None:
                    pixels = self.enlarge(name, pixels, words, stage_steps, stage_seed, augmentation)
            video = self.video_processor.postprocess_video(video=pixels, output_type=output_type)
        self.maybe_free_model_hooks()
        return AnimateDiffPipelineOutput(frames=video) if return_dict else (video,)

    def decode_latents(self, latents: Tensor, decode_chunk_size: int = 16) -> Tensor:
        """As an `AnimateDiffPipeline` does, also where the autoencoder has another dtype than the latents."""
        pixels: Tensor = super().decode_latents(latents.to(self.vae.dtype), decode_chunk_size)
        return pixels

    @torch.no_grad()
    def interpolate(self, latents: Tensor, words: Tensor, steps: int = 20, seed: int = 0) -> Tensor:
        """Latents (batch, c, n, height, width) with `factor` − 1 new frames after each but the last.

        Args:
            words: the prompts, (batch, tokens, width), as the text encoder embeds them.

        Returns:
            (batch, c, (n − 1)·factor + 1, height, width); every factor-th frame is a given one, unchanged.
        """
        factor = self.config.stages[INTERPOLATION]["factor"]
        made = self._denoised(INTERPOLATION, spread(latents, factor), words, steps, seed).to(latents.dtype)
        made[:, :, ::factor] = latents
        return made

    @torch.no_grad()
    def enlarge(
        self, name: str, pixels: Tensor, words: Tensor, steps: int, seed: int, augmentation: float | None
    ) -> Tensor:
        """Frames (batch, 3, frames, height, width) in [-1, 1], `factor` times as high and wide, float32.

        Args:
            name: of the stage, one of `SUPER_RESOLUTION`.
            words: as of `interpolate`.
            augmentation: see the call.
        """
        about = self.config.stages[name]
        level = about.get("augmentation", 0.0) / 2 if augmentation is None else augmentation
        # A decoder goes a little beyond what pixels can be.
        large = bicubic(pixels.clamp(-1, 1), about["factor"])
        # Another stream of numbers than that of the stage's noise.
        numbers = np.random.default_rng([seed, STAGES.index(name), 1])
        noise = torch.from_numpy(numbers.standard_normal(tuple(large.shape[1:])).astype(np.float32))
        levels = torch.full((len(large),), level)
        given = augmented(large, noise.expand(large.shape), levels)
        return self._denoised(name, given, words, steps, seed).float().clamp(-1, 1)

    def _denoised(self, name: str, given: Tensor, words: Tensor, steps: int, seed: int) -> Tensor:
        """What a stage samples beside `given` (batch, c + 1, frames, height, width), without that channel."""
        network = getattr(self, name)
        scheduler = copy.deepcopy(getattr(self, f"{name}_scheduler"))  # which keeps what a run has come to
        batch, channels, frames = given.shape[:3]
        prior = prior_named(self.config.stages[name].get("prior", "gaussian"))
        numbers = np.random.default_rng([seed, STAGES.index(name), 0])
        noise = prior.draw((channels - 1, *given.shape[2:]), 1, numbers)
        given = given.to(network.dtype)
        words = words.to(network.dtype).repeat_interleave(frames, dim=0)
        scheduler.set_timesteps(steps, device=given.device)
        made = noise.to(given).expand(batch, *noise.shape) * scheduler.init_noise_sigma
        for timestep in self.progress_bar(scheduler.timesteps):
            scaled = scheduler.scale_model_input(made, timestep)
            found = network(torch.cat([scaled, given], 1), timestep, words, return_dict=False)[0]
            made = scheduler.step(found, timestep, made, return_dict=False)[0]
        return made  # type: ignore[no-any-return]


def spread(latents: Tensor, factor: int) -> Tensor:
    """What interpolation is given: latents at every `factor`-th frame, 0 between, and where they are.

    Args:
        latents: (batch, c, n, height, width).

    Returns:
        (batch, c + 1, (n − 1)·factor + 1, height, width); the last channel is 1 at the given frames, else 0.
    """
    batch, channels, frames, *sides = latents.shape
    given = latents.new_zeros(batch, channels + 1, (frames - 1) * factor + 1, *sides)
    given[:, :channels, ::factor] = latents
    given[:, channels, ::factor] = 1
    return given


def augmented(large: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
    """What super-resolution is given: frames with noise, and how much: √(1 − a²)·x + a·ε, and a.

    As in arXiv 2106.15282, section 3, where the level of noise is told to the network too.

    Args:
        large: frames of the wanted size, (batch, 3, frames, height, width); noise: of the same shape.
        levels: a of each row, (batch,), in [0, 1]; 0 leaves the frames as they are.
    """
    level = levels.to(large).view(-1, 1, 1, 1, 1)
    mixed = (1 - level * level).sqrt() * large + level * noise.to(large)
    return torch.cat([mixed, level.expand(-1, 1, *large.shape[2:])], 1)


def bicubic(pixels: Tensor, factor: int) -> Tensor:
    """Frames (batch, 3, frames, height, width) in [-1, 1], each enlarged by bicubic interpolation."""
    if pixels.ndim != 5:
        raise BadInput(f"frames have the axes (batch, 3, frames, height, width), not {shown(pixels)}")
    frames = pixels.transpose(1, 2).flatten(0, 1)
    large = F.interpolate(frames, scale_factor=factor, mode="bicubic", antialias=False).clamp(-1, 1)
    video: Tensor = large.unflatten(0, (len(pixels), -1)).transpose(1, 2)
    return video
