"""An image model, inflated, is the image model on every frame until it is trained."""

import pytest
import torch
from diffusers import AnimateDiffPipeline, UNet2DConditionModel, UNetMotionModel

from seedbed.errors import BadInput, NotSupported
from seedbed.training.denoisers import inflate, inflated, motion_modules
from tests.training.conftest import image_pipeline


def noise_and_words(frames, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, 4, frames, 16, 16, generator=generator)
    return noise, torch.randn(2, 5, 16, generator=generator), torch.tensor([3, 700])


@torch.no_grad()
def test_every_frame_is_what_the_image_model_makes_of_the_same_noise():
    image = image_pipeline().unet
    video = inflate(image, heads=2, positions=8).eval()
    noise, words, timestep = noise_and_words(frames=5)
    made = video(noise, timestep, words.repeat_interleave(5, 0)).sample
    for frame in range(5):
        alone = image(noise[:, :, frame], timestep, words).sample
        assert (made[:, :, frame] - alone).abs().max() < 1e-5
    # diffusers' own start is another model.
    torch.manual_seed(0)
    theirs = UNetMotionModel.from_unet2d(image).eval()
    assert (theirs(noise, timestep, words.repeat_interleave(5, 0)).sample - made).abs().max() > 1e-2


def test_motion_modules_learn_from_the_first_step_on_and_then_tell_frames_apart():
    video = inflate(image_pipeline().unet, heads=2)
    modules = motion_modules(video)
    assert len(modules) == 2 * 1 + 2 * 2 + 1  # after each layer: down, up, middle
    noise, words, timestep = noise_and_words(frames=3)
    video(noise, timestep, words.repeat_interleave(3, 0)).sample.square().mean().backward()
    assert all(module.proj_out.weight.grad.abs().max() > 0 for module in modules)
    with torch.no_grad():
        for module in modules:
            module.proj_out.weight -= module.proj_out.weight.grad.sign() * 0.1
        same = noise[:, :, :1].expand(-1, -1, 3, -1, -1)
        made = video(same, timestep, words.repeat_interleave(3, 0)).sample
    assert (made[:, :, 0] - made[:, :, 1]).abs().max() > 1e-4


def test_the_pipeline_is_loaded_again_and_takes_more_frames_than_it_was_trained_on(tmp_path):
    inflated(image_pipeline(), heads=2, positions=48).save_pretrained(tmp_path)
    pipe = AnimateDiffPipeline.from_pretrained(tmp_path)
    assert isinstance(pipe.unet, UNetMotionModel) and pipe.unet.config.motion_max_seq_length == 48
    pipe.set_progress_bar_config(disable=True)
    frames = pipe("a", num_frames=40, height=32, width=32, num_inference_steps=1, output_type="np").frames
    assert frames.shape == (1, 40, 32, 32, 3)


def test_a_seed_decides_the_weights_and_nothing_else_does():
    image = image_pipeline().unet
    state = torch.get_rng_state()
    one, again, other = (inflate(image, heads=2, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[key], again[key]) for key in one)
    differing = {key for key in one if not torch.equal(one[key], other[key])}
    assert differing and all("motion_modules" in key for key in differing)


def test_what_cannot_be_inflated_is_refused():
    unet = image_pipeline().unet
    with pytest.raises(BadInput, match="3 heads of temporal attention do not divide the U-Net's width 8"):
        inflate(unet, heads=3)
    with pytest.raises(BadInput, match="not a Linear"):
        inflate(torch.nn.Linear(1, 1))
    other = UNet2DConditionModel.from_config(unet.config, upcast_attention=True)
    with pytest.raises(NotSupported, match="upcast_attention=True has no counterpart over frames"):
        inflate(other, heads=2)
    blocks = ("CrossAttnDownBlock2D", "AttnDownBlock2D")
    with pytest.raises(NotSupported, match=r"down_block_types=.*AttnDownBlock2D"):
        inflate(UNet2DConditionModel.from_config(unet.config, down_block_types=blocks), heads=2)
