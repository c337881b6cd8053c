"""The models that can be trained: what each kind makes of clips and captions, and how its denoiser is asked.

The pipeline itself encodes captions. What differs is how clips become latents, which no pipeline does for
training, and the arguments of the denoiser.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from seedbed.errors import BadInput, NotSupported

KINDS = {
    "StableDiffusionPipeline": "image",
    "AnimateDiffPipeline": "motion",
    "CogVideoXPipeline": "cogvideox",
    "WanPipeline": "wan",
}


class Model:
    """A pipeline whose denoiser is trained; its autoencoder and text encoder stay as they are.

    Args:
        pipe: of one of `KINDS`.
        call: arguments of its call, of which `max_sequence_length` plays a part.

    Attributes:
        denoiser: the network that is trained.
        frame_axis: of latents without a batch axis: (frames, channels, height, width) for CogVideoX, else
            (channels, frames, height, width), of one frame for an image model.
        positions: greatest number of frames of latents; None for any.
        temporal: frames of a clip after the first are a multiple of it; above 1 where the autoencoder joins
            frames, of which the first then is a latent frame of its own.
        multiple: height and width of a clip are multiples of it.

    Raises:
        NotSupported: another kind of pipeline, or a model of that kind that takes more than latents and text.
    """

    def __init__(self, pipe: Any, call: Mapping[str, Any]) -> None:
        name = type(pipe).__name__
        if name not in KINDS:
            raise NotSupported(f"{name} cannot be trained: {', '.join(KINDS)} can")
        self.pipe, self.call, self.kind = pipe, call, KINDS[name]
        self.denoiser: Any = pipe.unet if self.kind in ("image", "motion") else pipe.transformer
        config, vae = self.denoiser.config, pipe.vae.config
        channels = vae.get("latent_channels") or vae.get("z_dim")
        if config.in_channels != channels:
            raise NotSupported(
                f"the denoiser takes {config.in_channels} channels, the latents have {channels}: models that "
                "are given a picture or a mask too cannot be trained"
            )
        self.frame_axis, self.temporal, self.positions = 1, 1, None
        match self.kind:
            case "image":
                self.positions, self.multiple = 1, int(pipe.vae_scale_factor)
            case "motion":
                self.positions, self.multiple = config.motion_max_seq_length, int(pipe.vae_scale_factor)
            case "cogvideox":
                if config.get("patch_size_t"):
                    raise NotSupported("CogVideoX 1.5 joins latent frames, and cannot be trained")
                self.frame_axis, self.multiple = 0, pipe.vae_scale_factor_spatial * config.patch_size
                # An even number of latent frames is decoded to another number of frames than were encoded.
                self.temporal = 2 * pipe.vae_scale_factor_temporal
            case "wan":
                if getattr(pipe, "transformer_2", None) is not None or pipe.config.get("expand_timesteps"):
                    raise NotSupported("a Wan with two transformers or timesteps of tokens cannot be trained")
                self.positions, self.temporal = config.rope_max_seq_len, pipe.vae_scale_factor_temporal
                self.multiple = pipe.vae_scale_factor_spatial * config.patch_size[1]

    @property
    def scheduler(self) -> Any:
        """The denoiser's."""
        return self.pipe.scheduler

    def to(self, device: torch.device) -> None:
        """The whole pipeline onto a device, the parts that stay as they are without gradients."""
        self.pipe.to(device)
        for part in self.pipe.components.values():
            if isinstance(part, nn.Module) and part is not self.denoiser:
                part.eval().requires_grad_(False)

    def require(self, frames: int, height: int, width: int) -> None:
        """BadInput where clips of that size do not fit the model."""
        if (frames - 1) % self.temporal:
            raise BadInput(
                f"frames must be 1 more than a multiple of {self.temporal} for this autoencoder, not {frames}"
            )
        latent = 1 + (frames - 1) // self.temporal
        if self.positions is not None and latent > self.positions:
            raise BadInput(
                f"{frames} frames are {latent} in latents, but the model has {self.positions} positions"
            )
        for what, side in (("height", height), ("width", width)):
            if side % self.multiple:
                raise BadInput(f"the clips' {what} must be a multiple of {self.multiple}, not {side}")

    @torch.no_grad()
    def encode(self, clips: Tensor) -> Tensor:
        """uint8 (batch, frames, height, width, 3) as latents as the denoiser reads them, float32."""
        vae = self.pipe.vae
        pixels = clips.to(vae.device).permute(0, 4, 1, 2, 3).to(vae.dtype) / 127.5 - 1
        if self.kind in ("image", "motion"):
            return latents_of(vae, pixels)
        latents: Tensor = vae.encode(pixels).latent_dist.mode().float()
        if self.kind == "cogvideox":
            return latents.transpose(1, 2) * float(vae.config.scaling_factor)
        mean, std = (
            torch.tensor(vae.config[name], device=latents.device).view(-1, 1, 1, 1)
            for name in ("latents_mean", "latents_std")
        )
        return (latents - mean) / std

    @torch.no_grad()
    def embed(self, captions: Sequence[str]) -> Tensor:
        """Captions as the pipeline embeds them, (batch, tokens, width)."""
        known = inspect.signature(self.pipe.encode_prompt).parameters
        given = {
            "device": self.denoiser.device,
            "num_images_per_prompt": 1,
            "do_classifier_free_guidance": False,
            "max_sequence_length": self.call.get("max_sequence_length"),
        }
        arguments = {name: value for name, value in given.items() if name in known and value is not None}
        said: Tensor = self.pipe.encode_prompt(list(captions), **arguments)[0]
        return said

    def given(self, noisy: Tensor, clean: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """What the denoiser is given: the noisy latents alone, except by a stage of a cascade."""
        return noisy

    def predict(self, forward: Any, noisy: Tensor, timestep: Tensor, said: Tensor) -> Tensor:
        """What the denoiser, run as `forward`, says of noisy latents; of their shape."""
        match self.kind:
            case "image":
                found = forward(noisy.squeeze(2), timestep, said, return_dict=False)[0].unsqueeze(2)
            case "motion":
                words = said.repeat_interleave(noisy.shape[2], dim=0)
                found = forward(noisy, timestep, words, return_dict=False)[0]
            case "cogvideox":
                rotary, scale = None, self.pipe.vae_scale_factor_spatial
                if self.denoiser.config.use_rotary_positional_embeddings:
                    rotary = self.pipe._prepare_rotary_positional_embeddings(
                        noisy.shape[3] * scale, noisy.shape[4] * scale, noisy.shape[1], noisy.device
                    )
                found = forward(noisy, said, timestep, image_rotary_emb=rotary, return_dict=False)[0]
            case _:
                found = forward(noisy, timestep, said, return_dict=False)[0]
        return found  # type: ignore[no-any-return]


def latents_of(vae: Any, pixels: Tensor) -> Tensor:
    """Latents (batch, c, frames, h, w), float32, of frames (batch, 3, frames, height, width) in [-1, 1]."""
    frames = pixels.transpose(1, 2).flatten(0, 1).to(vae.dtype)
    latents: Tensor = vae.encode(frames).latent_dist.mode().float() * vae.config.scaling_factor
    video: Tensor = latents.unflatten(0, (len(pixels), -1)).transpose(1, 2)
    return video
