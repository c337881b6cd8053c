"""What a denoiser is trained on: noisy latents, what it is to predict of them, and how much that counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seedbed.errors import BadInput, NotSupported

KINDS = ("epsilon", "v_prediction", "flow_prediction")


@dataclass(frozen=True)
class Objective:
    """Noising and target of one schedule, in the terms of the scheduler that will sample.

    Attributes:
        kind: of the target: "epsilon" (ε), "v_prediction" (α ε − σ x0, arXiv 2202.00512), "flow_prediction"
            (ε − x0, arXiv 2209.03003).
        powers: ᾱ of each timestep, float64; empty for flow matching.
        shift: of flow matching: levels of noise are as dense as those of a sampler with this shift.
        timesteps: how many there are.
    """

    kind: str
    powers: Tensor
    shift: float
    timesteps: int

    @classmethod
    def of(cls, scheduler: Any) -> Objective:
        """The objective of a scheduler. Raises NotSupported if it predicts something else."""
        config = scheduler.config
        flow = type(scheduler).__name__.startswith("FlowMatch")
        kind = "flow_prediction" if flow else config.get("prediction_type")
        if kind not in KINDS or config.get("invert_sigmas"):
            raise NotSupported(f"{type(scheduler).__name__} predicts {kind!r}: no objective for training")
        powers = torch.empty(0) if kind == "flow_prediction" else scheduler.alphas_cumprod.double()
        shift = float(config.get("flow_shift") or config.get("shift") or 1.0)
        return cls(kind, powers, shift, int(config.num_train_timesteps))

    def noised(self, clean: Tensor, noise: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy latents, the target, and the timesteps that the denoiser is given.

        Args:
            clean, noise: (batch, ...) float32; the noise correlated as the prior says.
            share: (batch,) in [0, 1): how far from the data, uniform in training.
        """
        if self.kind == "flow_prediction":
            level = self.shift * share / (1 + (self.shift - 1) * share)
            sigma = _beside(level, clean)
            return (1 - sigma) * clean + sigma * noise, noise - clean, (level * self.timesteps).float()
        timestep = (share * self.timesteps).long()
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
