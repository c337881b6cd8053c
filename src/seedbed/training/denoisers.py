"""The models that can be trained: what each kind makes of clips and captions, and how its denoiser is asked.

The pipeline itself encodes captions. What differs is how clips become latents, which no pipeline does for
training, and the arguments of the denoiser.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from seedbed.errors import BadInput, NotSupported


class Model:
    """A pipeline whose denoiser is trained.

    Attributes:
        pipe: the diffusers pipeline; its autoencoder and text encoder stay as they are.
        call: arguments of its call, of which `max_sequence_length` plays a part.
        frame_axis: of latents without a batch axis.
        positions: greatest number of frames of latents; None for any.
        temporal: frames of a clip after the first are a multiple of it; above 1 where the autoencoder joins
            frames, of which the first then is a latent frame of its own.
    """

    frame_axis = 1
    positions: int | None = None
    temporal = 1
    part = "unet"

    def __init__(self, pipe: Any, call: dict[str, Any]) -> None:
        self.pipe, self.call = pipe, call
        vae = pipe.vae.config
        channels = vae.get("latent_channels") or vae.get("z_dim")
        if self.denoiser.config.in_channels != channels:
            raise NotSupported(
                f"the denoiser takes {self.denoiser.config.in_channels} channels, the latents have "
                f"{channels}: models that are given a picture or a mask too cannot be trained"
            )

    @property
    def denoiser(self) -> Any:
        """The network that is trained."""
        return getattr(self.pipe, self.part)

    def to(self, device: torch.device) -> None:
        """The whole pipeline onto a device, the parts that stay frozen without gradients."""
        self.pipe.to(device)
        for part in self.pipe.components.values():
            if isinstance(part, nn.Module) and part is not self.denoiser:
                part.eval().requires_grad_(False)

    @property
    def multiple(self) -> int:
        """Height and width of a clip must be multiples of it."""
        return int(self.pipe.vae_scale_factor)

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
        device = self.pipe.vae.device
        pixels = clips.to(device).permute(0, 4, 1, 2, 3).to(self.pipe.vae.dtype) / 127.5 - 1
        return self._encoded(pixels).float()

    def _encoded(self, pixels: Tensor) -> Tensor:
        vae = self.pipe.vae
        frames = pixels.transpose(1, 2).flatten(0, 1)
        latents = vae.encode(frames).latent_dist.mode() * vae.config.scaling_factor
        return latents.unflatten(0, (len(pixels), -1)).transpose(1, 2)  # type: ignore[no-any-return]

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
        return self.pipe.encode_prompt(list(captions), **arguments)[0]  # type: ignore[no-any-return]

    def predict(self, forward: Any, noisy: Tensor, timestep: Tensor, said: Tensor) -> Tensor:
        """What the denoiser, run as `forward`, says of noisy latents; of their shape."""
        raise NotImplementedError


class Image(Model):
    """A U-Net over single frames: latents have one, and lose its axis on the way in."""

    positions = 1

    def predict(self, forward: Any, noisy: Tensor, timestep: Tensor, said: Tensor) -> Tensor:
        """See `Model.predict`."""
        return forward(noisy.squeeze(2), timestep, said, return_dict=False)[0].unsqueeze(2)  # type: ignore[no-any-return]


class Motion(Model):
    """A U-Net with motion modules: latents are (channels, frames, height, width)."""

    def __init__(self, pipe: Any, call: dict[str, Any]) -> None:
        super().__init__(pipe, call)
        self.positions = int(self.denoiser.config.motion_max_seq_length)

    def predict(self, forward: Any, noisy: Tensor, timestep: Tensor, said: Tensor) -> Tensor:
        """See `Model.predict`."""
        words = said.repeat_interleave(noisy.shape[2], dim=0)
        return forward(noisy, timestep, words, return_dict=False)[0]  # type: ignore[no-any-return]


class CogVideoX(Model):
    """Latents are (frames, channels, height, width)."""

    frame_axis = 0
    part = "transformer"

    def __init__(self, pipe: Any, call: dict[str, Any]) -> None:
        super().__init__(pipe, call)
        # An even number of latent frames is decoded to another number of frames than were encoded.
        self.temporal = 2 * int(pipe.vae_scale_factor_temporal)
        if self.denoiser.config.get("ofs_embed_dim") or self.denoiser.config.get("patch_size_t"):
            raise NotSupported("CogVideoX 1.5 joins frames in patches, which is not supported in training")

    @property
    def multiple(self) -> int:
        """See `Model.multiple`."""
        return int(self.pipe.vae_scale_factor_spatial * self.denoiser.config.patch_size)

    def _encoded(self, pixels: Tensor) -> Tensor:
        vae = self.pipe.vae
        latents = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
        return latents.transpose(1, 2)  # type: ignore[no-any-return]

    def predict(self, forward: Any, noisy: Tensor, timestep: Tensor, said: Tensor) -> Tensor:
        """See `Model.predict`."""
        rotary = None
        if self.denoiser.config.use_rotary_positional_embeddings:
            scale = self.pipe.vae_scale_factor_spatial
            height, width = noisy.shape[3] * scale, noisy.shape[4] * scale
            rotary = self.pipe._prepare_rotary_positional_embeddings(
                height, width, noisy.shape[1], noisy.device
            )
        return forward(noisy, said, timestep, image_rotary_emb=rotary, return_dict=False)[0]  # type: ignore[no-any-return]


class Wan(Model):
    """Latents are (channels, frames, height, width), standardised by channel."""

    part = "transformer"

    def __init__(self, pipe: Any, call: dict[str, Any]) -> None:
        super().__init__(pipe, call)
        if getattr(pipe, "transformer_2", None) is not None or pipe.config.get("expand_timesteps"):
            raise NotSupported("a Wan with two transformers or timesteps for each token cannot be trained")
        self.temporal = int(pipe.vae_scale_factor_temporal)
        self.positions = int(self.denoiser.config.rope_max_seq_len)

    @property
    def multiple(self) -> int:
        """See `Model.multiple`."""
        return int(self.pipe.vae_scale_factor_spatial * self.denoiser.config.patch_size[1])

    def _encoded(self, pixels: Tensor) -> Tensor:
        vae = self.pipe.vae
        mean, std = (
            torch.tensor(vae.config[name], device=pixels.device, dtype=pixels.dtype).view(-1, 1, 1, 1)
            for name in ("latents_mean", "latents_std")
        )
        return (vae.encode(pixels).latent_dist.mode() - mean) / std  # type: ignore[no-any-return]

    def predict(self, forward: Any, noisy: Tensor, timestep: Tensor, said: Tensor) -> Tensor:
        """See `Model.predict`."""
        return forward(noisy, timestep, said, return_dict=False)[0]  # type: ignore[no-any-return]


_KINDS: dict[str, type[Model]] = {
    "StableDiffusionPipeline": Image,
    "AnimateDiffPipeline": Motion,
    "CogVideoXPipeline": CogVideoX,
    "WanPipeline": Wan,
}


def model_of(pipe: Any, call: dict[str, Any]) -> Model:
    """The kind of model that a pipeline is. Raises NotSupported where it is none of these."""
    name = type(pipe).__name__
    if name not in _KINDS:
        raise NotSupported(f"{name} cannot be trained: {', '.join(_KINDS)} can")
    return _KINDS[name](pipe, call)
