"""Weights that stay on the CPU until a device needs them; loads nothing heavy, as --help names the ways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

from seedbed.errors import BadInput, one_of

if TYPE_CHECKING:
    import torch

Offload = Literal["model", "sequential", "group"]


def require_accelerator(how: Offload, device: torch.device) -> None:
    """BadInput where there is no such way of offloading, or nothing to offload from."""
    one_of("offload", how, get_args(Offload))
    if device.type == "cpu":
        raise BadInput(
            f"offloading ({how}) needs an accelerator, and the device here is the CPU: leave it out"
        )


def offload_to(device: torch.device, pipe: Any, how: Offload) -> None:
    """Keep the weights on the CPU, and bring them to the device as they are needed.

    Args:
        how: "model", one model at a time; "sequential", each layer by itself, the slowest and smallest;
            "group", each layer by itself while the next one loads.
    """
    if how == "group":
        pipe.enable_group_offload(device, offload_type="leaf_level", use_stream=device.type == "cuda")
    elif how == "model":
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.enable_sequential_cpu_offload(device=device)
