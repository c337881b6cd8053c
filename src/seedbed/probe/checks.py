"""What the probe refuses in a denoiser's forward."""

import torch
from torch import Tensor

from seedbed.errors import BadOutput


def no_attention(name: str) -> str:
    """Why nothing can be seen in the denoiser of that name."""
    return (
        f"no softmax attention was seen in the {name}: it is linear, or goes round torch's "
        "scaled_dot_product_attention (xformers, attention slicing); use the default attention processors"
    )


def require_finite(values: Tensor, what: str) -> None:
    """Raises BadOutput, naming `what`, unless all values are finite."""
    if not torch.isfinite(values).all():
        raise BadOutput(f"{what} is not finite: try float32 or bfloat16, and check the weights")
