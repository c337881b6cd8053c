"""Several verifiers as one: a weighted sum of their scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seedbed.errors import BadInput
from seedbed.verifiers import Frames, Verifier


@dataclass(frozen=True)
class Combined:
    """The sum of the scores of several verifiers, each times its weight; scales are the verifiers' own.

    Attributes:
        text: that `seedbed.verifiers.resolve` made it of.
        parts: name, verifier and weight of each. Each one's numbers are columns `NAME.KEY`; of two of one
            name, the second is `NAME2`.
    """

    text: str
    parts: tuple[tuple[str, Verifier, float], ...]

    def __call__(self, frames: Frames, prompts: list[str]) -> dict[str, Tensor]:
        """See `seedbed.verifiers.Verifier`.

        Raises:
            BadInput: a verifier that gives no score.
        """
        total = torch.zeros(len(frames), dtype=torch.float64)
        columns: dict[str, Tensor] = {}
        for place, (name, verifier, weight) in enumerate(self.parts):
            verdict = verifier(frames, prompts)
            own = {"score": verdict} if isinstance(verdict, Tensor) else dict(verdict)
            if "score" not in own:
                raise BadInput(f"the verifier {name} of {self.text} gave no score")
            total += weight * own["score"].double().cpu()
            before = sum(name == other for other, _, _ in self.parts[:place])
            known = f"{name}{before + 1}" if before else name
            columns |= {f"{known}.{key}": values for key, values in own.items()}
        return {"score": total, **columns}
