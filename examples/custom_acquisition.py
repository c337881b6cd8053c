"""An acquisition function of one's own: prefer the noise whose attention puts out the most energy.

    python examples/custom_acquisition.py "a red circle moving left"

It derives from `AttentionScore`, says which end of its scale is better, and turns each attention call into
one number per candidate. Nothing needs registering, and the record of the choice names it.
"""

import sys

from torch import Tensor

import seedbed
from seedbed.acquisition import AttentionScore
from seedbed.attention import AttentionCall, energy


class OutputEnergy(AttentionScore):
    """Mean squared norm of the attention's output rows."""

    name = "output-energy"
    better = "high"

    def observe(self, call: AttentionCall) -> Tensor:
        return call.by_candidate(energy(call.output()))


prompt = sys.argv[1] if len(sys.argv) > 1 else "a red circle moving left"
choice = seedbed.select(seedbed.zoo.load(), prompt, candidates=8, acquisition=OutputEnergy())
for candidate in choice.order:
    print(f"candidate {candidate}: energy {choice.totals[candidate]:.4f}")
