"""What candidates will become, as most tests of this folder ask for it."""

import numpy as np
from torch import Tensor

from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session


def preview(session: Session, noises: Tensor, steps: int = 1) -> list[np.ndarray]:
    """The clean estimates after `steps`, decoded, by a rollout that begins anew and pauses only there."""
    return Rollout(session, noises).advance(steps)
