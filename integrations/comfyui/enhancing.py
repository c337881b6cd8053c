"""Attention that is made broader or narrower while ComfyUI samples, as `seedbed.adaptation.Enhance` does."""

import re

from comfy_api.latest import io

from seedbed.attention.interventions import RANGES, enhancement, grid_of
from seedbed.attention.tap import AttentionCall
from seedbed.errors import BadInput, finite

from .noises import CATEGORY
from .takes import heads_of


def layers_of(text):
    """The numbers in "0, 3-5", of the layers in which the video attends to itself; None, all, for no text."""
    found = set()
    for part in filter(None, map(str.strip, text.split(","))):
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part)
        if match is None:
            raise BadInput(f"layers are numbers such as 0, 3-5, not {part!r:.40}")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise BadInput(f"layers from {first} to {last} are none")
        found |= {*range(first, last + 1)}
    return found or None


class Enhanced:
    """What is installed in a model: it answers the attention calls of the video to itself.

    Args:
        change: of `seedbed.attention.interventions`.
        layers: numbers of such calls in an evaluation, or None.
        window: greatest and least sigma, the least one left out.
        options: of the model, whose own override and wrapper are still asked.
    """

    def __init__(self, change, layers, window, options):
        self.change, self.layers, self.window = change, layers, window
        own = options.setdefault("transformer_options", {})
        self.override = own.get("optimized_attention_override")
        self.wrapper = options.get("model_function_wrapper")
        own["optimized_attention_override"], options["model_function_wrapper"] = self.attend, self.evaluate
        self.place, self.sizes, self.inside, self.rows = 0, None, False, 1

    def evaluate(self, apply, given):
        """An evaluation of the model, whose layers are counted from 0."""
        sigma = given["c"]["transformer_options"]["sigmas"].max().item()
        self.inside = self.window[1] < sigma <= self.window[0]
        self.rows, shape = len(given["input"]), given["input"].shape[2:]
        self.place, self.sizes = 0, (1, *shape) if len(shape) == 2 else tuple(shape)
        if self.wrapper:
            result = self.wrapper(apply, given)
        else:
            result = apply(given["input"], given["timestep"], **given["c"])
        if not self.place:
            raise BadInput(
                "no attention of this model is of the video alone: text is beside it, or its attention does "
                "not pass transformer_options on"
            )
        if self.layers and max(self.layers) >= self.place:
            raise BadInput(f"there is no layer {max(self.layers)}: the model has {self.place}, from 0")
        return result

    def attend(self, attention, *args, **kwargs):
        """ComfyUI's `optimized_attention_override`."""
        q, k, v, mask = heads_of(*args, **kwargs)
        own, folded = q.shape[2] == k.shape[2], len(q) > self.rows
        grid = grid_of(q.shape[2], self.sizes, folded) if own else None
        number, self.place = self.place, self.place + (grid is not None)
        if grid is None or not self.inside or number not in (self.layers or {number}):
            return self.override(attention, *args, **kwargs) if self.override else attention(*args, **kwargs)
        below = getattr(self.override, "__self__", None)
        while isinstance(below, Enhanced):  # another node of this kind does not see this call, but counts it
            below.place += 1
            below = getattr(below.override, "__self__", None)
        scale = kwargs.get("scale") or q.shape[-1] ** -0.5
        call = AttentionCall(
            f"layer {number}", number, 0, number, "self", q, k, v, mask, scale, False, len(q), 0.0, None
        )
        answer = self.change(call, slice(None), grid).to(q.dtype)
        return answer if kwargs.get("skip_output_reshape") else answer.transpose(1, 2).flatten(2)


class SeedbedEnhance(io.ComfyNode):
    """The attention of the video to itself, changed by a rule; adds no evaluation."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SeedbedEnhance",
            display_name="Seedbed Enhance",
            category=CATEGORY,
            description="Makes the attention of layers broader or narrower. Measure before you rely on it.",
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input("rule", options=[*RANGES]),
                io.Float.Input("strength", default=0.1, min=-0.99, max=100.0, step=0.01),
                io.String.Input("layers", default="", tooltip="Numbers such as 0, 3-5; empty: all."),
                io.Float.Input("start", default=0.0, min=0.0, max=1.0, step=0.01),
                io.Float.Input("stop", default=1.0, min=0.0, max=1.0, step=0.01),
                io.Float.Input(
                    "weight", default=4.0, min=0.0, max=1000.0, step=0.1, tooltip="Of frames alone."
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, rule, strength, layers, start, stop, weight):
        strength = finite(f"the strength of {rule}", strength, *RANGES[rule])
        if start >= stop:
            raise BadInput(f"the window from {start:g} to {stop:g} holds no step")
        wanted = layers_of(layers)
        model = model.clone()
        if strength:
            # As ComfyUI's own nodes: shares of the schedule, whatever part of it a sampler is given.
            sampling = model.get_model_object("model_sampling")
            window = sampling.percent_to_sigma(start), sampling.percent_to_sigma(stop)
            Enhanced(enhancement(rule, strength, weight), wanted, window, model.model_options)
        return io.NodeOutput(model)
