"""The stages of a cascade as models that are trained, and each held against what costs nothing.

A training with `"stage"` adds one network to a base, or to the cascade of an earlier training. What it is
given in training is made of the clip itself: some of its latents, or its frames made smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, UNetMotionModel
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from seedbed.errors import BadInput, NotSupported, one_of
from seedbed.pipelines.cascade import (
    INTERPOLATION,
    STAGES,
    SUPER_RESOLUTION,
    CascadePipeline,
    augmented,
    bicubic,
    linear,
    spread,
)
from seedbed.statistics import Interval, bootstrap
from seedbed.training.config import Config, Network
from seedbed.training.denoisers import Model

Videos = NDArray[np.uint8]


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
        pixels: Tensor = clips.to(self.denoiser.device).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        return encoded(self.pipe, pixels) if self.name == INTERPOLATION else pixels

    @torch.no_grad()
    def given(self, noisy: Tensor, clean: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Noisy values, and beside them what the stage before this one would have made of the clip."""
        if self.name == INTERPOLATION:
            return torch.cat([noisy, spread(clean[:, :, :: self.factor], self.factor)], 1)
        small: Tensor = F.avg_pool3d(clean, (1, self.factor, self.factor))
        if self.name == SUPER_RESOLUTION[0]:
            small = seen(self.pipe, small)
        large = bicubic(small, self.factor)
        speckle, level = batch.get("speckle", torch.zeros(())), batch.get("level", torch.zeros(len(clean)))
        return torch.cat([noisy, augmented(large, speckle.expand_as(clean), level)], 1)


@torch.no_grad()
def seen(pipe: Any, pixels: Tensor) -> Tensor:
    """Frames (batch, 3, frames, height, width) in [-1, 1] as the autoencoder shows them, float32."""
    return decoded(pipe, encoded(pipe, pixels))


def encoded(pipe: Any, pixels: Tensor) -> Tensor:
    """The latents (batch, c, frames, h, w) of frames, as the base makes them."""
    frames = pixels.transpose(1, 2).flatten(0, 1).to(pipe.vae.dtype)
    found: Tensor = pipe.vae.encode(frames).latent_dist.mode() * pipe.vae.config.scaling_factor
    latents: Tensor = found.unflatten(0, (len(pixels), -1)).transpose(1, 2)
    return latents


def decoded(pipe: Any, latents: Tensor) -> Tensor:
    """The frames of latents."""
    shown: Tensor = pipe.decode_latents(latents)
    return shown.clamp(-1, 1)


@torch.no_grad()
def against_twin(
    pipe: CascadePipeline,
    name: str,
    videos: Videos,
    captions: Sequence[str],
    score: Callable[[Videos, list[str]], Any],
    *,
    steps: int = 20,
    seed: int = 0,
    batch: int = 8,
) -> dict[str, dict[str, Interval]]:
    """A stage and its trivial twin, both given what the autoencoder shows of clips, against the clips.

    The twin of interpolation is the linear interpolation of neighbouring decoded frames, that of
    super-resolution the bicubic interpolation of each.

    Args:
        name: of the stage.
        videos: (n, frames, height, width, 3), as the stage should make them; with an independent scene each.
        captions: one for each.
        score: gives a number for each of some videos, higher is better.
        steps, seed: of the stage; augmentation is off, as nothing has to be hidden from it.
        batch: clips of one forward.

    Returns:
        "error", the mean squared error of pixels in [0, 1] over what is made anew, and "score", each with
        the intervals "stage", "twin" and "difference", which is paired: the stage's minus the twin's.

    Raises:
        BadInput: no such stage, or clips that it would not make.
    """
    one_of("the stage", name, tuple(each for each in STAGES if getattr(pipe, each) is not None))
    factor = pipe.config.stages[name]["factor"]
    if len(videos) != len(captions) or not len(videos):
        raise BadInput(f"{len(videos)} videos but {len(captions)} captions: give one for each")
    frames, height, width = videos.shape[1:4]
    if name == INTERPOLATION and (frames == 1 or (frames - 1) % factor):
        raise BadInput(f"clips must have 1 frame more than a multiple of {factor}, not {frames}")
    least = pipe.vae_scale_factor * (1 if name == INTERPOLATION else factor)
    if height % least or width % least:
        raise BadInput(f"the clips' height and width must be multiples of {least}, not {height} and {width}")
    found: dict[str, list[Tensor]] = {"stage": [], "twin": []}
    made: dict[str, list[Videos]] = {"stage": [], "twin": []}
    new = np.arange(frames) % factor > 0 if name == INTERPOLATION else np.ones(frames, dtype=bool)
    device = pipe._execution_device
    for start in range(0, len(videos), batch):
        truth = torch.from_numpy(videos[start : start + batch]).to(device)
        true = truth.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        words = pipe.encode_prompt([*captions[start : start + batch]], device, 1, False)[0]
        if name == INTERPOLATION:
            latents = encoded(pipe, true[:, :, ::factor])
            stage = decoded(pipe, pipe.interpolate(latents, words, steps, seed))
            twin = linear(decoded(pipe, latents), factor)
        else:
            small: Tensor = F.avg_pool3d(true, (1, factor, factor))
            small = seen(pipe, small) if name == SUPER_RESOLUTION[0] else small
            stage = pipe.enlarge(name, small, words, steps, seed, augmentation=0.0)
            twin = bicubic(small, factor)
        for which, pixels in (("stage", stage), ("twin", twin)):
            difference = (pixels - true)[:, :, torch.from_numpy(new).to(device)].double() / 2
            found[which].append(difference.square().flatten(1).mean(1).cpu())
            shown = (pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 4, 1) * 255
            made[which].append(shown.round().to(torch.uint8).cpu().numpy())
    values = {
        "error": {which: torch.cat(parts).numpy() for which, parts in found.items()},
        "score": {
            which: np.asarray(score(np.concatenate(parts), [*captions]), dtype=np.float64)
            for which, parts in made.items()
        },
    }
    return {
        measure: {
            **{which: bootstrap(each) for which, each in both.items()},
            "difference": bootstrap(both["stage"] - both["twin"]),
        }
        for measure, both in values.items()
    }


def wins(found: Mapping[str, Mapping[str, Interval]]) -> bool:
    """Whether a stage is worth it: its error surely lower than its twin's, its score not surely lower."""
    return found["error"]["difference"].high < 0 and not found["score"]["difference"].high < 0
