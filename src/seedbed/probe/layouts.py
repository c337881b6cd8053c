"""How pipelines lay out their latents: needed only by what must know which axis holds the frames."""

from dataclasses import dataclass

import torch

_BY_RANK = {
    # Packed latents mix frames and positions in one axis.
    3: "b tokens c",
    4: "b c h w",
    5: "b c f h w",
}

# Pipelines, by the beginning of their class name, whose five axes are in another order.
_EXCEPTIONS = {
    "CogVideoX": "b f c h w",
    "ConsisID": "b f c h w",
    "Kandinsky5": "b f h w c",
    "StableVideoDiffusion": "b f c h w",
}


@dataclass(frozen=True)
class NoiseSpec:
    """The initial noise that a pipeline would draw for one candidate.

    Attributes:
        shape: without the batch axis; what `latents=` wants is (1, *shape).
        dtype: of the pipeline's latents.
        device: on which the pipeline would draw.
        frame_axis: the axis of `shape` that holds the frames; None for images and for packed latents.
        layout: names of all axes, batch first, separated by blanks.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    frame_axis: int | None
    layout: str


def spec_of(pipeline_name: str, latents: torch.Tensor) -> NoiseSpec:
    """The spec of one candidate's latents (1, *shape), from a pipeline of that class."""
    layout = _BY_RANK.get(latents.ndim, " ".join(["b", *(f"axis{i}" for i in range(1, latents.ndim))]))
    if latents.ndim == 5:
        layout = next(
            (order for start, order in _EXCEPTIONS.items() if pipeline_name.startswith(start)), layout
        )
    axes = layout.split()
    return NoiseSpec(
        shape=tuple(latents.shape[1:]),
        dtype=latents.dtype,
        device=latents.device,
        frame_axis=axes.index("f") - 1 if "f" in axes else None,
        layout=layout,
    )
