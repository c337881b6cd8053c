"""What is put into a pipeline beside its folder: a single-file checkpoint, a scheduler, LoRAs.

`loading.load` remembers on the pipeline what it put in, under "pipe" of `loading.switches`, so that a record
can do it again.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seedbed.errors import BadInput, reason, shown


def single_file(file: str, folder: str, dtypes: Any) -> Any:
    """The pipeline of a folder with the weights of a single file, by diffusers' `from_single_file`.

    All parts that the file holds are taken from it where it is of a whole pipeline, of a class that can read
    one; else it is the denoiser's, the first where there are two.

    Args:
        dtypes: a torch.dtype, or by component, as `DiffusionPipeline.from_pretrained` takes it.

    Raises:
        BadInput: the file's weights are not all of this pipeline's, or it is one that no file is read for.
        Exception: whatever else diffusers makes of a file that does not fit.
    """
    import diffusers
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    def dtype_of(name: str) -> Any:
        return dtypes.get(name, torch.float32) if isinstance(dtypes, Mapping) else dtypes

    index = diffusers.DiffusionPipeline.load_config(folder)
    kind: Any = getattr(diffusers, index["_class_name"])
    name = next((name for name in ("transformer", "unet") if name in index), "")
    model: Any = getattr(diffusers, index[name][1] if name else "", None)
    pipe = None
    with _unused_weights() as unused:
        if hasattr(kind, "from_single_file"):
            with suppress(SingleFileComponentError):  # a part that is not in the file
                pipe = kind.from_single_file(file, config=folder, torch_dtype=dtype_of(name))
                pipe.register_to_config(_name_or_path=folder)
        if pipe is None and not hasattr(model, "from_single_file"):
            raise BadInput(f"{kind.__name__} has no part that diffusers reads from a single file")
        if pipe is None:
            unused.clear()
            try:
                part = model.from_single_file(file, config=folder, subfolder=name, torch_dtype=dtype_of(name))
            except NotImplementedError as error:  # of moving weights that are not there
                raise BadInput(f"it lacks weights of the {model.__name__} in {folder}") from error
            own = {name: part, "torch_dtype": dtypes, "use_safetensors": True}
            pipe = diffusers.DiffusionPipeline.from_pretrained(folder, **own)
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    absent = [f"{n}.{key}" for n, part in parts.items() for key, p in part.named_parameters() if p.is_meta]
    if unused or absent:
        why = f"it lacks {absent[0]}" if absent else f"no place for {unused[0].partition(':')[2]}"
        raise BadInput(f"it does not fit the {kind.__name__} in {folder}: {textwrap.shorten(why, 200)}")
    for name, part in parts.items():
        if getattr(part, "dtype", None) != dtype_of(name):
            part.to(dtype_of(name))
    return pipe


@contextmanager
def _unused_weights() -> Iterator[list[str]]:
    """What diffusers says of weights that a model has no place for, which it would go on without."""
    said: list[str] = []
    logger = logging.getLogger("diffusers.loaders.single_file_model")
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    level, logger.propagate = logger.level, False
    logger.setLevel(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = True


_NOISE_SCHEDULE = ("beta_", "trained_betas", "num_train_timesteps", "prediction_type", "rescale_betas")


def scheduler_like(own: Any, name: str) -> Any:
    """The scheduler of that class, with the configuration of the pipeline's own.

    A model of flow matching keeps its shift, another one its noise schedule.

    Raises:
        BadInput: there is no such class, or one that does not go with the model, or that has not all that its
            noise schedule is made of.
    """
    import diffusers

    kind: Any = getattr(diffusers, name, None)
    if diffusers.SchedulerMixin not in getattr(kind, "__mro__", ()):
        names = [each for each in dir(diffusers) if each.endswith("Scheduler")]
        near = difflib.get_close_matches(f"{name.removesuffix('Scheduler')}Scheduler", names, 1)
        hint = f": did you mean {near[0]}?" if near else ""
        raise BadInput(f"this diffusers has no scheduler {shown(name)}{hint}")
    if own is None:
        raise BadInput(f"the pipeline has no scheduler, so {name} has no place in it")
    config = dict(own.config)
    # What the folder's file leaves to the class's defaults is the model's too, of its noise schedule.
    config["_use_default_values"] = [
        key for key in config.get("_use_default_values", []) if not key.startswith(_NOISE_SCHEDULE)
    ]
    flow = "FlowMatch" in type(own).__name__ or config.get("prediction_type") == "flow_prediction"
    either = "use_flow_sigmas" in inspect.signature(kind).parameters
    if not either and flow != ("FlowMatch" in name):
        its, models = ("diffusion", "flow matching") if flow else ("flow matching", "diffusion")
        raise BadInput(f"{name} is a scheduler of {its}, but the model is one of {models}")
    if flow:
        shift = config.get("shift", config.get("flow_shift", 1.0))
        config |= {"shift": shift, "flow_shift": shift}
        if either:
            config |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    try:
        made = kind.from_config(config)
    except Exception as error:  # of what this one cannot be made with
        raise BadInput(f"{name} cannot be made from the model's scheduler: {reason(error)}") from error
    # What the model was trained with, and a class may not know.
    known = inspect.signature(kind).parameters
    lost = [key for key in ("invert_sigmas", "shift_terminal") if config.get(key) and key not in known]
    before, after = getattr(own, "alphas_cumprod", None), getattr(made, "alphas_cumprod", None)
    alike = flow or before is None  # the powers of flow matching's schedulers mean nothing
    if before is not None and after is not None and not alike:
        alike = torch.allclose(before.float(), after.float(), atol=1e-3)
    if not alike:
        usual = {"snr_shift_scale": 1.0, "rescale_betas_zero_snr": False}
        lost += [key for key, none in usual.items() if config.get(key, none) != none and key not in known]
    if lost or not alike:
        why = f"knows no {lost[0]}" if lost else "has another noise schedule"
        raise BadInput(f"{name} {why}, and the model was trained with its own: take another scheduler")
    return made


def add_loras(pipe: Any, loras: Iterable[Mapping[str, Any]]) -> None:
    """Load LoRAs ({"file": path, "scale": number}) and switch all of them on.

    Raises:
        BadInput: no such file, a pipeline that takes none, or a file that does not fit its denoiser.
    """
    scales: dict[str, float] = {}
    for lora in loras:
        file = Path(lora["file"])
        if not hasattr(pipe, "load_lora_weights"):
            raise BadInput(f"{type(pipe).__name__} takes no LoRA, so {file} cannot be loaded")
        if not file.is_file():
            raise BadInput(f"there is no LoRA {file}")
        name = re.sub(r"\W", "_", file.stem)
        name += f"_{len(scales)}" * (name in scales)
        where = {"pretrained_model_name_or_path_or_dict": str(file.parent), "weight_name": file.name}
        try:
            found = pipe.lora_state_dict(**where, use_safetensors=True)
            pipe.load_lora_weights(
                str(file.parent), weight_name=file.name, adapter_name=name, use_safetensors=True
            )
        except Exception as error:  # whatever a file of other shapes, or none, makes of diffusers and peft
            raise BadInput(f"the LoRA {file} does not fit {type(pipe).__name__}: {reason(error)}") from error
        networks = {n: part for n, part in pipe.components.items() if isinstance(part, nn.Module)}
        fitted = {
            f"{part}.{layer}"
            for part, network in networks.items()
            for layer, module in network.named_modules()
            if name in getattr(module, "lora_A", ())
        }
        state = found[0] if isinstance(found, tuple) else found
        # Names of text encoders change on the way.
        asked = {
            key.split(".lora_A")[0]
            for key in state
            if ".lora_A" in key and key.startswith(("transf", "unet"))
        }
        if not fitted or asked - fitted:
            lost = (
                f"it has no layer {min(asked - fitted)}" if asked - fitted else "none of its layers is there"
            )
            raise BadInput(f"the LoRA {file} does not fit {type(pipe).__name__}: {lost}")
        scales[name] = float(lora["scale"])
    if scales:
        pipe.set_adapters([*scales], [*scales.values()])
