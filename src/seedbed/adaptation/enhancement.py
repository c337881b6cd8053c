"""Enhancement: the attention of chosen layers made broader or narrower while the pipeline denoises."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from seedbed.adaptation.adaptation import Adaptation
from seedbed.adaptation.layout import Layout
from seedbed.attention.interventions import RANGES, Rule, enhancement
from seedbed.attention.tap import AttentionCall
from seedbed.errors import finite, one_of
from seedbed.pipelines.interception import Run
from seedbed.pipelines.session import Session
from seedbed.pipelines.steps import Position


@dataclass(frozen=True, kw_only=True)
class Enhance(Adaptation):
    """Attention of the video to itself, changed by a rule; adds no evaluation.

    On layers of high entropy this is the enhancing half of IE-Adapt (arXiv 2504.12027) as far as that is
    public: its rule, its strength and its window are not, and these are ours.

    Args:
        rule: "mix" with uniform attention, `(1 − s) A + s U`; "temperature", logits divided by 1 + s, where
            s below 0 sharpens; "frames", the output multiplied by 1 + s (gain − 1) with the gain of
            Enhance-A-Video (arXiv 2502.07508), where 1 is as published.
        strength: s; at 0 the model is left alone.
        weight: of the rule "frames", as published for Wan and HunyuanVideo; 3.4 for CogVideoX.

    Raises:
        BadInput: see `Adaptation`.
        NotSupported: later, a layer on which the rule is not defined.
    """

    name = "enhance"

    layers: str | list[str] = "entropy:high"
    rule: Rule = "mix"
    strength: float = 0.1
    weight: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("enhance's rule", self.rule, tuple(RANGES))
        strength = finite("enhance's strength", self.strength, *RANGES[self.rule])
        object.__setattr__(self, "strength", strength)
        object.__setattr__(self, "weight", finite("enhance's weight", self.weight, 0, 1000))

    def install(self, run: Run, count: int, guided: bool, session: Session, layout: Layout) -> None:
        """See `Adaptation.install`."""
        if not self.strength:
            return
        names, position = set(self.layers), Position(run.pipe, run.undo)
        change = enhancement(self.rule, self.strength, self.weight)

        def answer(call: AttentionCall) -> Tensor | None:
            inside = call.layer in names and self.start <= position.share < self.stop
            return layout.changed(call, change) if inside else None

        run.see_attention(answer)
