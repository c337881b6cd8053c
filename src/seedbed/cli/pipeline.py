"""From what the user typed to a pipeline on a device."""

import logging
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seedbed.errors import BadInput


def silence() -> None:
    """Keep the chatter of the libraries below off the terminal: their errors arrive as exceptions."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.simplefilter("ignore")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    import diffusers
    import transformers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def one_thread() -> None:
    """Compute on one thread.

    The embedded models' tensors are tiny: on a busy machine, threads that wait for one another are many times
    slower.
    """
    import torch

    torch.set_num_threads(1)


def load(model: str | None, dtype: str | Mapping[str, str] | None, device: str | None) -> Any:
    """The pipeline in a folder, of an embedded model's name or of one on the Hub; None: the embedded model.

    dtype: of all components or by component; None is float32 on the CPU, bfloat16 or float16 on a GPU.
    device: None is "cuda" where there is one, else "cpu".

    Raises BadInput if there is no such model or device, or if the folder is not a pipeline that loads.
    """
    silence()
    import diffusers
    import torch

    from seedbed import zoo

    if model is None or (model in zoo.names() and not Path(model).exists()):
        model = str(zoo.path(model or zoo.DEFAULT))
        one_thread()
    folder = Path(model)
    if model and folder.exists():
        if not (folder / "model_index.json").is_file():
            raise BadInput(f"{model} is not a diffusers pipeline: it has no model_index.json")
        model = str(folder.resolve())  # goes into the record, which may be replayed from another folder
    elif not re.fullmatch(r"\w[\w.-]*/[\w.-]+", model):
        raise BadInput(
            f"there is no model at {model or repr(model)}: give the folder of a diffusers pipeline, "
            f"or one of {', '.join(zoo.names())}"
        )

    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise BadInput(f"unknown device {device!r}: use cpu, cuda or cuda:1") from None
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"there is no device {place} on this machine: use --device cpu")
    if place.type not in ("cpu", "cuda"):
        try:
            torch.empty(1, device=place).item()
        except (RuntimeError, AssertionError):  # what a torch without that kind of device answers
            raise BadInput(f"there is no device {place} on this machine: use --device cpu") from None
    if dtype is None:
        dtype = "float32"
        if place.type == "cuda":
            dtype = "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    dtypes = (
        {part: getattr(torch, name) for part, name in dtype.items()} if isinstance(dtype, Mapping) else None
    )

    try:
        pipe = diffusers.DiffusionPipeline.from_pretrained(
            model, torch_dtype=dtypes or getattr(torch, str(dtype)), use_safetensors=True
        )
    except (
        Exception
    ) as error:  # whatever the files of a broken model provoke in diffusers, transformers or the Hub
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if not folder.exists():
            raise BadInput(f"there is no folder {model}, and the Hub did not give it: {reason}") from error
        raise BadInput(f"{model} does not load as a diffusers pipeline: {reason}") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(place)
