"""The stages of a cascade as models that are trained.

A training with `"stage"` adds one network to a base, or to the cascade of an earlier training. What it is
given in training is made of the clip itself: some of its latents, or its frames made smaller.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDIMScheduler, UNetMotionModel
from torch import Tensor
from torch.nn import functional as F

from seedbed.errors import BadInput, NotSupported
from seedbed.pipelines.cascade import (
    INTERPOLATION,
    SUPER_RESOLUTION,
    CascadePipeline,
    augmented,
    bicubic,
    spread,
)
from seedbed.training.config import Config, Network
from seedbed.training.denoisers import Model, latents_of


def stage_scheduler() -> DDIMScheduler:
    """Predicts v, and begins without signal, so that a stage is sampled from where training ends."""
    return DDIMScheduler(
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        clip_sample=False,
        steps_offset=1,
    )


def stage_network(network: Network, channels: int, text: int, seed: int = 0) -> UNetMotionModel:
    """A stage's network, which makes `channels` of 2·channels + 1, for text of width `text`."""
    levels = len(network.widths)
    plain = levels - network.attention
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNetMotionModel(
            in_channels=2 * channels + 1,
            out_channels=channels,
            block_out_channels=network.widths,
            down_block_types=("DownBlockMotion",) * plain + ("CrossAttnDownBlockMotion",) * (levels - plain),
            up_block_types=("CrossAttnUpBlockMotion",) * (levels - plain) + ("UpBlockMotion",) * plain,
            layers_per_block=network.layers,
            norm_num_groups=network.groups,
            cross_attention_dim=text,
            num_attention_heads=network.heads,
            motion_num_attention_heads=network.heads,
            motion_max_seq_length=network.positions,
        )


class Stage(Model):
    """A new stage of a cascade, as `Model` is of a denoiser that is there.

    Args:
        pipe: an `AnimateDiffPipeline`, or a `CascadePipeline` to which the stage is added.
        call: arguments of the pipeline's call.
        prior: of the base, as its settings name it.
        config: with a `stage`.
        scheduler: of the stage.

    Attributes:
        pipe: the cascade with the stage.
        name: of the stage, one of `seedbed.pipelines.cascade.STAGES`.
        prior: see above; the stage's own is the config's.

    Raises:
        NotSupported: another kind of pipeline.
        BadInput: the cascade has that stage already.
    """

    def __init__(
        self, pipe: Any, call: Mapping[str, Any], prior: str | None, config: Config, scheduler: Any
    ) -> None:
        assert config.stage is not None
        if type(pipe).__name__ not in ("AnimateDiffPipeline", "CascadePipeline"):
            raise NotSupported(f"a stage follows an AnimateDiffPipeline, not a {type(pipe).__name__}")
        wanted = (INTERPOLATION,) if config.stage.kind == "interpolation" else SUPER_RESOLUTION
        free = [name for name in wanted if getattr(pipe, name, None) is None]
        if not free:
            raise BadInput(f"stage: {config.model} has {' and '.join(wanted)} already")
        self.name, self.kind, self.call, self.prior = free[0], "motion", call, prior
        self.factor, inner = config.stage.factor, pipe.vae.config
        channels = inner.latent_channels if self.name == INTERPOLATION else inner.out_channels
        self.denoiser = stage_network(
            config.stage.network, channels, pipe.unet.config.cross_attention_dim, config.seed
        )
        stages = dict(getattr(pipe.config, "stages", None) or {})
        about = {"factor": self.factor, "prior": config.prior}
        if config.stage.kind == "super-resolution":
            about["augmentation"] = config.stage.augmentation
        own = {self.name: self.denoiser, f"{self.name}_scheduler": scheduler}
        self.pipe = CascadePipeline(**{**pipe.components, **own}, stages={**stages, self.name: about})
        self.frame_axis, self.temporal, self.positions = 1, 1, config.stage.network.positions
        self.multiple = int(pipe.vae_scale_factor)
        if self.name != INTERPOLATION:
            # Else a smaller clip would not fit the autoencoder, which shows it as the base would.
            self.multiple *= self.factor

    @property
    def scheduler(self) -> Any:
        """The stage's."""
        return getattr(self.pipe, f"{self.name}_scheduler")

    def require(self, frames: int, height: int, width: int) -> None:
        """See `Model.require`; clips for interpolation begin and end with a given frame."""
        super().require(frames, height, width)
        if self.name == INTERPOLATION and (frames == 1 or (frames - 1) % self.factor):
            raise BadInput(
                f"frames must be 1 more than a multiple of {self.factor} to be interpolated, not {frames}"
            )

    @torch.no_grad()
    def encode(self, clips: Tensor) -> Tensor:
        """Clips as the stage makes them: latents for interpolation, else pixels in [-1, 1], float32."""
        if self.name == INTERPOLATION:
            return super().encode(clips)
        return clips.to(self.denoiser.device).permute(0, 4, 1, 2, 3).float() / 127.5 - 1

    @torch.no_grad()
    def given(self, noisy: Tensor, clean: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Noisy values, and beside them what the stage before this one would have made of the clip."""
        if self.name == INTERPOLATION:
            return torch.cat([noisy, spread(clean[:, :, :: self.factor], self.factor)], 1)
        small: Tensor = F.avg_pool3d(clean, (1, self.factor, self.factor))
        if self.name == SUPER_RESOLUTION[0]:
            small = self.pipe.decode_latents(latents_of(self.pipe.vae, small)).clamp(-1, 1)
        large = bicubic(small, self.factor)
        speckle, level = batch.get("speckle", torch.zeros(())), batch.get("level", torch.zeros(len(clean)))
        return torch.cat([noisy, augmented(large, speckle.expand_as(clean), level)], 1)
