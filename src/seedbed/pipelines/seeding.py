"""How a pipeline draws its initial noise: in which shape, how it is packed, and whether a seed names it.

Found by one more run up to the denoiser, in which what it draws for its latents is replaced by numbers that
count its elements: where they turn up is how it packs them. No evaluation is run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from seedbed.errors import NotSupported
from seedbed.noise.packing import Packing
from seedbed.pipelines.call import Call
from seedbed.pipelines.discover import Facts, look
from seedbed.pipelines.drawing import latent_channels, spec_of
from seedbed.pipelines.interception import Encodings


@dataclass(frozen=True)
class Drawn:
    """The noise of one candidate as the pipeline draws it, before it makes its latents of it.

    Attributes:
        shape: without a batch axis.
        layout: names of all axes, batch first, as in `NoiseSpec`.
        dtype: that it is drawn in.
        packing: how its elements are laid out in the latents; None where they stay as they are.
        unseeded: why its noise is not the first that it draws from the caller's generator; None where it is.
    """

    shape: tuple[int, ...]
    layout: str
    dtype: torch.dtype
    packing: Packing | None
    unseeded: str | None

    @property
    def frame_axis(self) -> int | None:
        """The axis of `shape` that counts frames; None for images."""
        axes = self.layout.split()[1:]
        axis = axes.index("f") if "f" in axes else None
        # QwenImagePipeline draws images as videos of one frame, and packs them.
        return None if axis is None or (self.packing is not None and self.shape[axis] == 1) else axis


def find_drawn(call: Call, encodings: Encodings, facts: Facts) -> Drawn:
    """How the pipeline draws the noise of one candidate.

    Raises:
        NotSupported: its latents are not the elements of one drawn noise, each once, in another order.
    """
    shape, count = facts.spec.shape, math.prod(facts.spec.shape)
    replaced = facts.entry.startswith("drawn")  # by the candidates' noises, as it is
    seen = look(call, encodings, 1, facts.off, entry=facts.entry, numbered=0 if replaced else count)
    if replaced:
        place = next(i for i, (size, *_) in enumerate(seen.draws) if size[1:] == shape)
        noise, drawn, packing = torch.empty(1, *shape), shape, None
    else:
        latents = seen.added[0] if facts.entry == "added" else seen.noise
        values = latents.detach().double().cpu().flatten()
        for noise in (noise for noise in seen.drawn if noise.numel() == count):
            first = float(noise.min())
            scale = float(values.min()) / first
            order = (values / scale - first).round().long() if scale > 0 else torch.zeros(0).long()
            drawn = tuple(noise.shape[1:] if len(noise) == 1 else noise.shape)
            packing = Packing.of(drawn, order) if len(order) == count else None
            if packing is not None and torch.allclose(values, (order.double() + first) * scale, rtol=1e-6):
                break
        else:
            raise NotSupported(
                f"the latents of {call.name} are not one drawn noise in another order: where its frames are "
                "cannot be told"
            )
        place = int(first) // count
    layout = facts.spec.layout
    if packing is not None and drawn == shape and packing.strides == (1,):
        packing = None
    if packing is not None:
        channels = latent_channels([*call.denoisers.values(), getattr(call.pipe, "vae", None)])
        layout = spec_of(call.name, noise, call.device, channels).layout
    _, dtype, seeded = seen.draws[place]
    before = any(given for *_, given in seen.draws[:place])
    why = (
        "something else is drawn first from" if before else None if seeded else "its noise is not drawn from"
    )
    return Drawn(
        shape=drawn,
        layout=layout,
        dtype=dtype,
        packing=packing,
        unseeded=f'no prior="torch" for {call.name}: {why} the generator of its call' if why else None,
    )
