"""How pipelines lay out their latents: needed only by what must know which axis holds the frames."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch

_BY_RANK = {
    # Packed latents mix frames and positions in one axis.
    3: "b tokens c",
    4: "b c h w",
}

# Of videos, the usual one first.
_VIDEO = ("b c f h w", "b f c h w", "b f h w c")

# Pipelines, by the beginning of their class name, whose five axes are not in the usual order.
_NAMED = {
    # Of the noise that is added, which its latents are turned from.
    "AnimateDiffVideoToVideo": "b f c h w",
    "CogVideoX": "b f c h w",
    "ConsisID": "b f c h w",
    "Kandinsky5": "b f h w c",
    "StableVideoDiffusion": "b f c h w",
    "VideoToVideoSD": "b f c h w",
}


@dataclass(frozen=True)
class NoiseSpec:
    """The initial noise that a pipeline would draw for one candidate.

    Attributes:
        shape: without the batch axis; what `latents=` wants is (1, *shape).
        dtype: of the pipeline's latents.
        device: on which the pipeline computes.
        frame_axis: the axis of `shape` that holds the frames; None for images, for packed latents, and where
            nothing tells the axes.
        layout: names of all axes, batch first, separated by blanks.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    frame_axis: int | None
    layout: str


def spec_of(
    pipeline_name: str, latents: torch.Tensor, device: torch.device, channels: Collection[int] = ()
) -> NoiseSpec:
    """The spec of one candidate's latents (1, *shape), from a pipeline of that class.

    Args:
        device: on which the pipeline computes: a noise is drawn where the caller's generator is.
        channels: how many channels its latents may have, as far as its models tell.
    """
    layout = _layout(pipeline_name, tuple(latents.shape), channels)
    axes = layout.split()
    return NoiseSpec(
        shape=tuple(latents.shape[1:]),
        dtype=latents.dtype,
        device=device,
        frame_axis=axes.index("f") - 1 if "f" in axes else None,
        layout=layout,
    )


def latent_channels(models: Iterable[Any]) -> set[int]:
    """The channels that latents may have, from the configurations of a pipeline's models."""
    channels: set[int] = set()
    for config in (getattr(model, "config", {}) for model in models):
        own = [config.get(name) for name in ("latent_channels", "z_dim")]
        # What goes into an autoencoder and comes out are pixels.
        others = [config.get(name) for name in ("in_channels", "out_channels")] if own == [None, None] else []
        channels.update(value for value in own + others if isinstance(value, int))
    return channels


def _layout(pipeline_name: str, shape: tuple[int, ...], channels: Collection[int]) -> str:
    unknown = " ".join(["b", *(f"axis{i}" for i in range(1, len(shape)))])
    if len(shape) != 5:
        return _BY_RANK.get(len(shape), unknown)
    for start, order in _NAMED.items():
        if pipeline_name.startswith(start):
            return order
    fitting = [order for order in _VIDEO if shape[order.split().index("c")] in channels]
    if not channels or _VIDEO[0] in fitting:
        return _VIDEO[0]
    return fitting[0] if len(fitting) == 1 else unknown
