"""The models that can be trained: what they make of clips and captions, and what they are to predict.

The pipeline itself encodes captions. What differs is how clips become latents, which no pipeline does for
training, and the arguments of the denoiser.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AnimateDiffPipeline, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch import Tensor, nn

from seedbed.errors import BadInput, NotSupported, shown, whole

KINDS = {
    "StableDiffusionPipeline": "image",
    "AnimateDiffPipeline": "motion",
    "CogVideoXPipeline": "cogvideox",
    "WanPipeline": "wan",
}
_TARGETS = ("epsilon", "v_prediction", "flow_prediction")


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


@dataclass(frozen=True)
class Objective:
    """Noising and target of one schedule, in the terms of the scheduler that will sample.

    Attributes:
        kind: of the target: "epsilon" (ε), "v_prediction" (α ε − σ x0, arXiv 2202.00512), "flow_prediction"
            (ε − x0, arXiv 2209.03003).
        powers: ᾱ of each timestep, float64; empty for flow matching.
        shift: levels of noise are as dense as those of a sampler of flow matching with this shift.
        timesteps: how many there are.
    """

    kind: str
    powers: Tensor
    shift: float
    timesteps: int

    @classmethod
    def of(cls, scheduler: Any, shift: float | None = None) -> Objective:
        """The objective of a scheduler, with its own shift where none is given.

        Raises NotSupported if it predicts something else.
        """
        config = scheduler.config
        flow = type(scheduler).__name__.startswith("FlowMatch")
        kind = "flow_prediction" if flow else config.get("prediction_type")
        if kind not in _TARGETS or config.get("invert_sigmas"):
            raise NotSupported(f"{type(scheduler).__name__} predicts {kind!r}: no objective for training")
        powers = torch.empty(0) if kind == "flow_prediction" else scheduler.alphas_cumprod.double()
        own = config.get("flow_shift") or config.get("shift") if kind == "flow_prediction" else None
        shift = float(shift or own or 1.0)
        return cls(kind, powers, shift, int(config.num_train_timesteps))

    def noised(self, clean: Tensor, noise: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy latents, the target, and the timesteps that the denoiser is given.

        Args:
            clean, noise: (batch, ...) float32; the noise correlated as the prior says.
            share: (batch,) in [0, 1): how far from the data, uniform in training.
        """
        level = self.shift * share / (1 + (self.shift - 1) * share)
        if self.kind == "flow_prediction":
            sigma = _beside(level, clean)
            return (1 - sigma) * clean + sigma * noise, noise - clean, (level * self.timesteps).float()
        timestep = (level * self.timesteps).long()
        power = self.powers.to(clean.device)[timestep]
        alpha, sigma = _beside(power**0.5, clean), _beside((1 - power) ** 0.5, clean)
        target = noise if self.kind == "epsilon" else alpha * noise - sigma * clean
        return alpha * clean + sigma * noise, target, timestep

    def weights(self, timestep: Tensor, gamma: float | None) -> Tensor:
        """Weight of each clip's loss, (batch,): min(SNR, γ) in units of x0 (arXiv 2303.09556, section 3.4).

        That is min(SNR, γ)/SNR for ε and min(SNR, γ)/(SNR + 1) for v; 1 where γ is None.

        Raises:
            BadInput: γ with flow matching, for which it is not defined.
        """
        if gamma is None:
            return torch.ones(len(timestep), device=timestep.device)
        if self.kind == "flow_prediction":
            raise BadInput("min_snr is for the targets epsilon and v_prediction: leave it out")
        power = self.powers.to(timestep.device)[timestep]
        snr = power / (1 - power)
        least = snr.clamp(max=gamma)
        # Without signal, under zero terminal SNR, the ratio is 0/0, whose limit is 1.
        weight = (gamma / snr).clamp(max=1) if self.kind == "epsilon" else least / (snr + 1)
        return weight.float()


def _beside(values: Tensor, like: Tensor) -> Tensor:
    """One value for each row, to broadcast against `like`, in its dtype."""
    return values.to(like.dtype).view(-1, *[1] * (like.ndim - 1))


# Of blocks that `UNetMotionModel.from_unet2d` has others for: any other becomes one without attention.
_BLOCKS = {"CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"}


def inflate(
    unet: UNet2DConditionModel, *, positions: int = 32, heads: int = 8, layers: int = 1, seed: int = 0
) -> UNetMotionModel:
    """The U-Net over frames, with a motion module after each of the image U-Net's layers (arXiv 2307.04725).

    It computes of every frame what the image U-Net does, since the output projections of the motion modules
    are zero: diffusers leaves them random. Temporal attention joined to an image model, which is then trained
    on videos and images, is what arXiv 2305.10474 does, section 4.

    Args:
        unet: of a text-to-image pipeline; its weights are copied.
        positions: greatest number of frames, in training or after it (`motion_max_seq_length`). The positions
            are sines, so that those beyond the trained ones are defined, though nothing was learned of them.
        heads: of temporal attention; divides every width of the U-Net.
        layers: transformer blocks of each motion module.
        seed: of the other weights of the motion modules.

    Raises:
        BadInput: a number that does not fit.
        NotSupported: the U-Net does something that `UNetMotionModel` does not.
    """
    if not isinstance(unet, UNet2DConditionModel):
        raise BadInput(f"a UNet2DConditionModel can be inflated, not a {type(unet).__name__}")
    config: Any = unet.config
    usual = inspect.signature(UNet2DConditionModel.__init__).parameters
    known = inspect.signature(UNetMotionModel.__init__).parameters
    for name, value in config.items():
        lost = name in usual and name not in known and value != usual[name].default
        if name in ("down_block_types", "up_block_types"):
            lost = not _BLOCKS.issuperset(value)
        if lost and name != "attention_head_dim":  # read as num_attention_heads
            raise NotSupported(f"a U-Net with {name}={shown(value)} has no counterpart over frames")
    widths = tuple(config.block_out_channels)
    for width in widths:
        if width % whole("heads", heads):
            raise BadInput(f"{heads} heads of temporal attention do not divide the U-Net's width {width}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        motion = MotionAdapter(
            block_out_channels=widths,
            motion_layers_per_block=config.layers_per_block,
            motion_transformer_layers_per_block=whole("layers", layers),
            motion_num_attention_heads=heads,
            motion_norm_num_groups=config.norm_num_groups,
            motion_max_seq_length=whole("positions", positions),
        )
        video = UNetMotionModel.from_unet2d(unet, motion)
    for module in motion_modules(video):
        nn.init.zeros_(module.proj_out.weight)
        nn.init.zeros_(module.proj_out.bias)
    return video


def motion_modules(unet: nn.Module) -> list[Any]:
    """The modules of temporal attention in a U-Net over frames."""
    from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D

    return [module for module in unet.modules() if isinstance(module, AnimateDiffTransformer3D)]


def inflated(pipe: Any, **how: Any) -> AnimateDiffPipeline:
    """The video pipeline of a text-to-image pipeline: its parts, with the U-Net inflated.

    Arguments and errors as `inflate`. `AnimateDiffPipeline.from_pretrained` reads it once it is saved.
    """
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    parts = {name: getattr(pipe, name, None) for name in names}
    missing = ", ".join(name for name, part in parts.items() if part is None)
    if missing:
        raise NotSupported(f"{type(pipe).__name__} has no {missing}: a latent text-to-image U-Net is needed")
    if getattr(pipe, "text_encoder_2", None) is not None:
        raise NotSupported(f"{type(pipe).__name__} has two text encoders, which AnimateDiffPipeline has not")
    return AnimateDiffPipeline(**{**parts, "unet": inflate(pipe.unet, **how)}, motion_adapter=None)
