"""Weights that offloading brought in for a forward which was then stopped."""

from typing import Any

from torch import nn


def offload_again(pipe: Any) -> None:
    """Runs what a stopped forward has skipped: the hooks after it, which take the weights off again.

    Sequential offloading (accelerate) leaves parameters without data in their place, group offloading
    (diffusers) moves them. Offloading of whole models is the pipeline's own affair.
    """
    models = [component for component in pipe.components.values() if isinstance(component, nn.Module)]
    for module in (part for model in models for part in model.modules()):
        hook: Any = vars(module).get("_hf_hook")
        own = [parameter for parameter in module._parameters.values() if parameter is not None]
        for each in getattr(hook, "hooks", [hook]):
            if getattr(each, "offload", None) is True and any(not parameter.is_meta for parameter in own):
                each.post_forward(module, ())
        registry: Any = vars(module).get("_diffusers_hook")
        group: Any = registry.get_hook("group_offloading") if registry is not None else None
        if group is not None:
            group.post_forward(module, ())
