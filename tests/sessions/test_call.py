"""What a session refuses before anything runs: one clear line each."""

import json

import pytest
import torch
from diffusers import AnimateDiffPipeline, AnimateDiffVideoToVideoPipeline
from PIL import Image

from seedbed.errors import BadInput, BadRecord, NotSupported, SeedbedError
from seedbed.pipelines.session import Session
from tests.pipelines import CALLS, PROMPT, cogvideox
from tests.pipelines.animatediff import lcm


@pytest.mark.parametrize(
    "prompt, arguments, message",
    [
        ("  \n", {}, "the prompt must be one text that is not blank"),
        (["a", "b"], {}, "the prompt must be one text"),
        (None, {}, "pass either a prompt or prompt_embeds"),
        (PROMPT, {"prompt_embeds": torch.zeros(1, 8, 16)}, "prompt_embeds, not both"),
        (
            None,
            {"prompt_embeds": torch.zeros(2, 8, 16)},
            "prompt_embeds must hold one prompt, but its length is 2",
        ),
        (
            PROMPT,
            {"num_frame": 9},
            "CogVideoXPipeline has no argument 'num_frame': did you mean 'num_frames'?",
        ),
        (PROMPT, {"zzz": 9}, "CogVideoXPipeline has no argument 'zzz'"),
        (PROMPT, {"latents": torch.zeros(1)}, "latents cannot be passed"),
        (PROMPT, {"output_type": "pil"}, "output_type cannot be passed"),
        (PROMPT, {"num_videos_per_prompt": 2}, "each candidate gives one video"),
        (PROMPT, {"generator": [torch.Generator()] * 2}, "pass one generator, not 2"),
        (PROMPT, {"generator": 7}, "generator must be a torch.Generator, not int"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(pipe_of, prompt, arguments, message):
    with pytest.raises(BadInput) as error:
        Session(pipe_of("cogvideox"), prompt, **arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("thing", [None, torch.nn.Linear(1, 1), "THUDM/CogVideoX-2b"])
def test_only_diffusers_pipelines_are_probed(thing):
    with pytest.raises(BadInput, match=f"a diffusers pipeline is needed, not a {type(thing).__name__}"):
        Session(thing, PROMPT)


def test_a_pipeline_that_takes_no_latents_is_refused(pipe_of):
    from diffusers import DDPMPipeline, DDPMScheduler

    with pytest.raises(NotSupported, match="DDPMPipeline takes no latents"):
        Session(DDPMPipeline(unet=pipe_of("sdxl").unet, scheduler=DDPMScheduler()), PROMPT)


def test_what_the_pipeline_refuses_is_bad_input_in_one_line(pipe_of):
    session = Session(pipe_of("cogvideox"), PROMPT, **CALLS["cogvideox"] | {"height": 17})
    with pytest.raises(
        BadInput, match=r"CogVideoXPipeline failed before its first evaluation: .*divisible by 8"
    ):
        _ = session.spec


def test_arguments_beside_the_model_come_under_the_callers(tmp_path):
    pipe = cogvideox()
    pipe.register_to_config(_name_or_path=str(tmp_path))
    assert Session(pipe, PROMPT).call == {}
    path = tmp_path / "seedbed.json"
    path.write_text(
        json.dumps({"schema": "seedbed.model/1", "call": {"num_frames": 9, "guidance_scale": 4.0}})
    )
    assert Session(pipe, PROMPT, guidance_scale=2.0).call == {"num_frames": 9, "guidance_scale": 2.0}


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"schema": "other/1"}', '{"schema": "seedbed.model/1", "call": [1]}']
)
def test_a_damaged_file_beside_the_model_is_refused(tmp_path, content):
    pipe = cogvideox()
    pipe.register_to_config(_name_or_path=str(tmp_path))
    (tmp_path / "seedbed.json").write_text(content)
    with pytest.raises(BadRecord) as error:
        Session(pipe, PROMPT)
    assert "seedbed.json" in str(error.value) and "\n" not in str(error.value)
    assert isinstance(error.value, SeedbedError)


def test_settings_beside_a_model_reach_its_other_pipelines_as_far_as_they_know_them(tmp_path):
    lcm().save_pretrained(tmp_path)
    call = {"num_frames": 3, "num_inference_steps": 2, "height": 16, "width": 16}
    beside = tmp_path / "seedbed.json"
    beside.write_text(json.dumps({"schema": "seedbed.model/1", "call": call, "prior": "mixed:1"}))
    pipe = AnimateDiffVideoToVideoPipeline.from_pipe(AnimateDiffPipeline.from_pretrained(tmp_path))
    video = [Image.new("RGB", (16, 16))] * 3
    asked = Session(pipe, PROMPT, video=video).asked
    assert asked.arguments == {"num_inference_steps": 2, "height": 16, "width": 16, "video": video}
    assert asked.prior == "mixed:alpha=1.0"
    beside.write_text(json.dumps({"schema": "seedbed.model/1", "call": {"num_frame": 3}}))
    with pytest.raises(BadInput, match="did you mean 'num_frames'"):  # of the model's own class: a mistake
        Session(AnimateDiffPipeline.from_pretrained(tmp_path), PROMPT)
