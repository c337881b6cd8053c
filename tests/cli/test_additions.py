"""LoRAs, schedulers, single-file checkpoints, tiling and offloading from the command line, and replayed."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from seedbed.errors import BadInput
from seedbed.pipelines.additions import scheduler_like
from seedbed.pipelines.loading import load
from tests.cli.test_call import made
from tests.cli.test_errors import one_line
from tests.elsewhere.test_elsewhere import needs_python_backends
from tests.pipelines import BUILDERS, cogvideox

PROMPT = "a red circle moving left"
FEW = ("--candidates", 1, "--no-report", "--json", "--out", "a.mp4")


def lora(folder: Path, layers: int = 3, seed: int = 0) -> Path:
    """A file as diffusers saves it, with weights of its own in every block."""
    pipe: Any = cogvideox(layers)
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"]))
    torch.manual_seed(seed)
    for name, parameter in pipe.transformer.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    weights = get_peft_model_state_dict(pipe.transformer)
    pipe.save_lora_weights(folder, transformer_lora_layers=weights, weight_name="style.safetensors")
    return folder / "style.safetensors"


def digest(outcome) -> str:
    return str(made(outcome)["record"]["frames_sha256"])


def test_loras_are_recorded_and_replayed(seedbed, model, tmp_path: Path) -> None:
    lora(tmp_path), lora(tmp_path / "b:1", seed=1)
    given = ("generate", PROMPT, "--model", model, *FEW)
    plain, one = digest(seedbed(*given)), digest(seedbed(*given, "--lora", "style.safetensors"))
    half = digest(seedbed(*given, "--lora", "style.safetensors:0.5"))
    two = ("--lora", "style.safetensors:0.5", "--lora", "b:1/style.safetensors")
    record = made(seedbed(*given, *two))["record"]
    assert len({plain, one, half, record["frames_sha256"]}) == 4
    files = [(Path(each["file"]).parent.name, each["scale"]) for each in record["switches"]["pipe"]["loras"]]
    assert files == [(tmp_path.name, 0.5), ("b:1", 1.0)]
    again = made(seedbed("replay", "a.mp4", "--json"))
    assert again["identical"] and again["record"] == record
    (tmp_path / "style.safetensors").rename(tmp_path / "moved.safetensors")
    one_line(seedbed("replay", "a.mp4"), "there is no LoRA", "style.safetensors")
    one_line(
        seedbed("replay", "a.mp4", "--lora", "moved.safetensors"),
        "the record's LoRAs are style.safetensors, style.safetensors: give --lora for each, in this order",
    )
    two = ("--lora", "moved.safetensors", "--lora", "b:1/style.safetensors")
    assert made(seedbed("replay", "a.mp4", *two, "--device", "cpu", "--json"))["identical"]


def test_loras_that_do_not_fit(seedbed, model, model_of, tmp_path: Path) -> None:
    file = lora(tmp_path / "deep", layers=5)
    given = ("generate", PROMPT, "--model", model, *FEW, "--lora")
    one_line(
        seedbed(*given, file),
        "does not fit CogVideoXPipeline: it has no layer transformer.transformer_blocks.3",
    )
    weights = load_file(lora(tmp_path))
    save_file({key: weight.repeat(1, 2) for key, weight in weights.items()}, tmp_path / "wide.safetensors")
    one_line(seedbed(*given, "wide.safetensors"), "wide.safetensors does not fit CogVideoXPipeline: ")
    save_file(
        {key.replace("transformer", "other"): w for key, w in weights.items()}, tmp_path / "o.safetensors"
    )
    one_line(seedbed(*given, "o.safetensors"), "does not fit CogVideoXPipeline")
    (tmp_path / "no.safetensors").write_text("no weights")
    one_line(seedbed(*given, "no.safetensors"), "no.safetensors does not fit CogVideoXPipeline: ")
    one_line(seedbed(*given, "none.safetensors:0.5"), "there is no LoRA", "none.safetensors")
    one_line(seedbed(*given, f"{file}:nan"), "deep/style.safetensors must be a finite number, not nan")


def test_a_scheduler_is_configured_as_the_models_own(seedbed, model, model_of) -> None:
    given = ("generate", PROMPT, *FEW, "--model")
    record = made(seedbed(*given, model, "--scheduler", "CogVideoXDPMScheduler"))["record"]
    assert record["scheduler"]["class"] == "CogVideoXDPMScheduler"
    assert record["scheduler"]["config"]["prediction_type"] == "v_prediction"
    assert made(seedbed("replay", "a.mp4", "--json"))["identical"]
    wan = model_of("wan")
    record = made(seedbed(*given, wan, "--scheduler", "FlowMatchEulerDiscreteScheduler"))["record"]
    assert record["scheduler"]["config"]["shift"] == 3.0
    assert made(seedbed("replay", "a.mp4", "--json"))["identical"]
    one_line(
        seedbed(*given, model, "--scheduler", "DDIM"), "no scheduler 'DDIM': did you mean DDIMScheduler?"
    )
    one_line(
        seedbed(*given, model, "--scheduler", "UNet2DModel"), "this diffusers has no scheduler 'UNet2DModel'"
    )
    one_line(seedbed(*given, wan, "--scheduler", "DDIMScheduler"), "the model is one of flow matching")
    flow = "FlowMatchEulerDiscreteScheduler"
    one_line(
        seedbed(*given, model, "--scheduler", flow),
        "a scheduler of flow matching, but the model is one of diff",
    )


@pytest.mark.parametrize(
    ("own", "name", "lost"),
    [
        (CogVideoXDDIMScheduler(snr_shift_scale=3.0), "DPMSolverMultistepScheduler", "snr_shift_scale"),
        (CogVideoXDDIMScheduler(snr_shift_scale=3.0), "CogVideoXDPMScheduler", None),
        (CogVideoXDDIMScheduler(snr_shift_scale=1.0), "DDIMScheduler", None),  # by the class's own betas
        (DDIMScheduler(rescale_betas_zero_snr=True), "LMSDiscreteScheduler", "rescale_betas_zero_snr"),
        (
            CogVideoXDDIMScheduler(snr_shift_scale=1.0, rescale_betas_zero_snr=True),
            "HeunDiscreteScheduler",
            "rescale_betas_zero_snr",
        ),
        (CogVideoXDDIMScheduler(snr_shift_scale=3.0), "IPNDMScheduler", "snr_shift_scale"),
        (FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "UniPCMultistepScheduler", "invert_sigmas"),
        (FlowMatchEulerDiscreteScheduler(shift=3.0), "UniPCMultistepScheduler", None),
        (
            UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0),
            "FlowMatchEulerDiscreteScheduler",
            None,
        ),
    ],
)
def test_a_scheduler_without_the_models_noise_schedule_is_refused(own, name, lost) -> None:
    if lost is None:
        made = scheduler_like(own, name)
        if "FlowMatch" in type(own).__name__ + name:
            assert 3.0 in (made.config.get("flow_shift"), made.config.get("shift"))
        else:
            assert torch.allclose(made.alphas_cumprod.float(), own.alphas_cumprod.float(), atol=1e-3)
        return
    with pytest.raises(BadInput, match=f"^{name} knows no {lost}, and the model was trained with its own"):
        scheduler_like(own, name)


def test_a_scheduler_that_cannot_be_made_of_the_models_is_one_line() -> None:
    with pytest.raises(BadInput, match=r"^UnCLIPScheduler cannot be made from the model's scheduler: "):
        scheduler_like(DDIMScheduler(), "UnCLIPScheduler")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The weights of another LTX denoiser, as its authors name them, in one file without anything else."""
    pipe = BUILDERS["ltx"]()
    torch.manual_seed(1)
    for parameter in pipe.transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    names = {"proj_in": "patchify_proj", "time_embed": "adaln_single", "norm_q": "q_norm", "norm_k": "k_norm"}
    weights = {}
    for key, weight in pipe.transformer.state_dict().items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        weights["model.diffusion_model." + key] = weight
    save_file(weights, tmp_path / "tuned.safetensors")
    return tmp_path / "tuned.safetensors"


def test_a_checkpoint_in_a_single_file(seedbed, model_of, checkpoint: Path, tmp_path: Path) -> None:
    folder = model_of("ltx")
    plain = digest(seedbed("generate", PROMPT, "--model", folder, *FEW))
    given = ("generate", PROMPT, *FEW, "--model", checkpoint.name)
    record = made(seedbed(*given, "--config", folder))["record"]
    assert record["frames_sha256"] != plain and record["model"] == str(folder)
    assert record["switches"]["pipe"]["checkpoint"] == str(checkpoint)
    assert made(seedbed("replay", "a.mp4", "--json"))["identical"]
    # Diffusers' own pipeline with these weights makes the same.
    pipe = BUILDERS["ltx"]()
    pipe.transformer = type(pipe.transformer).from_single_file(
        str(checkpoint), config=str(folder), subfolder="transformer"
    )
    import seedbed as library

    assert library.replay(record, pipe, progress=False).identical
    one_line(seedbed(*given), "tuned.safetensors is a single file: say with config (--config)")
    one_line(seedbed("generate", PROMPT, "--config", folder), "no such file was given")
    one_line(seedbed(*given, "--config", "nowhere"), "there is no model at nowhere")
    weights = load_file(checkpoint)
    save_file({**weights, "model.diffusion_model.transformer_blocks.9.a": torch.zeros(1)}, checkpoint)
    one_line(seedbed(*given, "--config", folder), "no place for ['transformer_blocks.9.a']")
    del weights["model.diffusion_model.proj_out.weight"]
    save_file(weights, checkpoint)
    one_line(seedbed(*given, "--config", folder), "it lacks weights of the LTXVideoTransformer3DModel")
    checkpoint.write_text("no weights")
    one_line(seedbed(*given, "--config", folder), "does not load as a diffusers pipeline")
    checkpoint.unlink()
    one_line(seedbed("replay", "a.mp4"), "the checkpoint", "is not here: say where it is")


def test_a_checkpoint_and_its_pipeline_that_have_moved(seedbed, model_of, checkpoint: Path, tmp_path) -> None:
    shutil.copytree(model_of("ltx"), tmp_path / "ltx")
    seedbed("generate", PROMPT, *FEW, "--model", checkpoint.name, "--config", "ltx")
    checkpoint.rename(tmp_path / "moved.safetensors")
    assert made(seedbed("replay", "a.mp4", "--model", "moved.safetensors", "--json"))["identical"]
    (tmp_path / "ltx").rename(tmp_path / "pipeline")
    both = ("--model", "moved.safetensors", "--config", "pipeline")
    assert made(seedbed("replay", "a.mp4", *both, "--json"))["identical"]
    one_line(seedbed("replay", "a.mp4", *both[:2]), "ltx is not here: say where with --config PATH")
    (tmp_path / "moved.safetensors").rename(checkpoint)
    assert made(seedbed("replay", "a.mp4", *both[2:], "--json"))["identical"]


def test_where_a_record_is_replayed(seedbed, model) -> None:
    seedbed("generate", PROMPT, "--model", model, *FEW)
    one_line(seedbed("replay", "a.mp4", "--device", "tpu"), "unknown device 'tpu'")
    one_line(seedbed("replay", "a.mp4", "--device", "cpu", "--offload", "model"), "needs an accelerator")
    one_line(seedbed("replay", "a.mp4", "--config", model), "no checkpoint in a single file: leave --config")
    assert made(seedbed("replay", "a.mp4", "--vae-tiling", "--json"))["identical"]
    tiled = load(model, device="cpu", vae_tiling=True, switches={"vae": {"settings": {"use_tiling": False}}})
    assert tiled.vae.use_tiling


def test_decoding_in_tiles_is_recorded(seedbed, model, tmp_path: Path) -> None:
    record = made(seedbed("generate", PROMPT, "--model", model, "--vae-tiling", *FEW))["record"]
    assert record["switches"]["vae"]["settings"]["use_tiling"] is True
    assert made(seedbed("replay", "a.mp4", "--json"))["identical"]


@pytest.mark.parametrize("how", ["model", "sequential", "group"])
def test_offloading_needs_an_accelerator(seedbed, model, how: str) -> None:
    given = ("generate", PROMPT, "--model", model, "--device", "cpu", "--offload", how)
    one_line(seedbed(*given), f"offloading ({how}) needs an accelerator, and the device here is the CPU")


_OFFLOADED = """
import sys
import tests.elsewhere.device
import seedbed
from seedbed.pipelines.loading import load
pipe = load(sys.argv[1], device="elsewhere", offload="model")
assert {part.device.type for part in (pipe.transformer, pipe.vae, pipe.text_encoder)} == {"cpu"}
made = seedbed.generate(pipe, "a red circle", candidates=2, progress=False)
assert made.record()["switches"]["pipe"]["offload"] == "model" and made.selection.model.device == "elsewhere"
assert seedbed.replay(made.record(), progress=False).identical
# On a CPU there is nothing to offload from.
here = load(sys.argv[1], device="cpu", switches=made.selection.model.switches)
again = seedbed.replay(made.record(), here, progress=False)
assert any("offload" in change for change in again.changes), again.changes
"""


@needs_python_backends
def test_offloaded_models_wait_on_the_cpu(model) -> None:
    command = [sys.executable, "-c", _OFFLOADED, model]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
