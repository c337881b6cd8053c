"""Previews without the model's own decoder: what a linear map is, when it is fitted, and what stays exact."""

import json
from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny

import seedbed
from seedbed import BadInput, BadOutput, NotSupported, contact_sheet, generate
from seedbed.acquisition import Previews
from seedbed.pipelines.decoding import Linear, decode_named, decoder_of
from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session
from seedbed.selection.pools import draw_pool
from tests.pipelines import CALLS, PROMPT

# Frames of the layouts: channels first, packed tokens, frames in the batch. Large enough to fit a map to.
CALL = {name: CALLS[name] for name in ("cogvideox", "animatediff")}
CALL["ltx"] = {**CALLS["ltx"], "height": 128, "width": 128}


def sheet(name, pipe, **options):
    settings = {"candidates": 3, "after": 1, "progress": False, **CALL[name], **options}
    return contact_sheet(pipe, PROMPT, **settings)


def counted(pipe, monkeypatch):
    """The rows of every decode by the autoencoder itself."""
    rows, own = [], type(pipe.vae).decode

    def decode(self, z, *args, **kwargs):
        rows.append(len(z))
        return own(self, z, *args, **kwargs)

    monkeypatch.setattr(type(pipe.vae), "decode", decode)
    return rows


class Places(torch.nn.Module):
    """An autoencoder that is a linear map of each place, of its own for the first frame where `first`."""

    def __init__(self, channels, times, side, first):
        super().__init__()
        draw = torch.Generator().manual_seed(times)
        shape = (2, channels + 1, 3, times, side, side)
        self.register_buffer("coefficients", 0.05 * torch.randn(shape, generator=draw))
        self.first = first

    def decode(self, z, return_dict=True):
        rows, _, frames, high, wide = z.shape
        _, _, _, times, side, _ = self.coefficients.shape
        pictures = []
        for frame in range(frames):
            for time in range(1 if self.first and not frame else times):
                use = self.coefficients[int(self.first and not frame), :, :, time]
                values = torch.einsum("bchw,cops->bohpws", z[:, :, frame], use[:-1])
                values = values + use[-1][None, :, None, :, None]
                pictures.append(values.reshape(rows, 3, high * side, wide * side))
        return (torch.stack(pictures, 2),)


def session_of(vae):
    return SimpleNamespace(pipe=SimpleNamespace(vae=vae), asked=SimpleNamespace(name="APipeline"))


@pytest.mark.parametrize(
    "frames, times, first", [(3, 4, True), (3, 3, False), (4, 8, True), (2, 4, False), (1, 1, False)]
)
def test_what_is_linear_is_found_exactly_whatever_a_latent_frame_stands_for(frames, times, first):
    """3 latent frames of 9 may be either: what leaves less is taken."""
    vae = Places(4, times, 2, first)
    linear = Linear(session_of(vae))
    z = torch.randn(1, 4, frames, 6, 5, generator=torch.Generator().manual_seed(0))
    linear.pixels(z, lambda: vae.decode(z)[0])
    others = 0.5 * torch.randn(2, 4, frames, 6, 5, generator=torch.Generator().manual_seed(1))
    found = linear.pixels(others, lambda: pytest.fail("decoded again"))
    torch.testing.assert_close(found, vae.decode(others)[0], atol=1e-5, rtol=0)


def test_what_is_not_linear_is_met_in_the_least_squares():
    draw = np.random.default_rng(0)
    z, video = draw.normal(size=(1, 3, 7, 6)), np.tanh(draw.normal(size=(1, 3, 14, 12)))
    linear = Linear(session_of(Places(3, 1, 2, False)))
    found = linear.pixels(torch.from_numpy(z).float(), lambda: torch.from_numpy(video).float())
    places = np.concatenate([z[0].reshape(3, -1).T, np.ones((42, 1))], 1)
    for row in range(2):
        for column in range(2):
            wanted = video[0, :, row::2, column::2].reshape(3, -1).T
            fitted = places @ np.linalg.lstsq(places, wanted, rcond=None)[0]
            got = found[0, :, row::2, column::2].reshape(3, -1).T
            np.testing.assert_allclose(got, fitted, atol=1e-5)


@pytest.mark.parametrize("name", CALL)
def test_a_sheet_takes_one_decode(name, pipe_of, monkeypatch):
    pipe = pipe_of(name)
    exact = sheet(name, pipe)
    rows = counted(pipe, monkeypatch)
    made = sheet(name, pipe, decode="linear")
    assert len(rows) == 1
    assert [video.shape for video in made.selection.previews] == [
        video.shape for video in exact.selection.previews
    ]
    again = sheet(name, pipe, decode="linear")
    assert len(rows) == 2 and all(map(np.array_equal, again.selection.previews, made.selection.previews))
    assert made.selection.options["decode"] == "linear" and exact.selection.options["decode"] == "exact"
    assert "; previews decoded by a linear map" in made.selection.reason
    assert made.selection.reason == again.selection.reason and "decoded" not in exact.selection.reason
    assert "decode" not in vars(pipe.vae)
    # The fit is nearer to its own video than the mean colour is.
    seen, shown = (np.float64(each.selection.previews[0]) for each in (exact, made))
    assert np.square(seen - shown).mean() < seen.var()
    # Only what is shown is approximate.
    ledger = dict(made.selection.ledger.entries)
    assert np.array_equal(made.exact(1, progress=False), exact.selection.previews[1])
    assert np.array_equal(made.finish(2, progress=False).frames, exact.finish(2, progress=False).frames)
    assert made.selection.ledger.entries == ledger == exact.selection.ledger.entries


def test_a_batch_is_fitted_to_its_first_video(pipe_of, monkeypatch):
    pipe = pipe_of("cogvideox")
    rows = counted(pipe, monkeypatch)
    batched = sheet("cogvideox", pipe, decode="linear", batch_size=3)
    assert rows == [1]
    single = sheet("cogvideox", pipe, decode="linear", batch_size=1)
    for one, other in zip(batched.selection.previews, single.selection.previews, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1


def test_a_map_serves_its_own_step_alone(pipe_of, monkeypatch):
    """One that was fitted to what a single step shows has nothing to say of clearer previews."""
    pipe = pipe_of("cogvideox")
    call = {**CALL["cogvideox"], "num_inference_steps": 3}
    rows, found = counted(pipe, monkeypatch), {}
    for steps in ((1, 2), (2,)):
        session = Session(pipe, PROMPT, **call)
        rollout = Rollout(session, draw_pool(session, 2, 0).noises, decoder=decoder_of(session, "linear"))
        for step in steps:
            found[steps] = rollout.advance(step)
    assert len(rows) == 3  # one for each step of each rollout
    assert all(map(np.array_equal, found[1, 2], found[2,]))


def test_a_finished_video_is_never_decoded_by_another(pipe_of):
    def brightness(frames, prompts):
        return torch.from_numpy(frames.reshape(len(frames), -1).mean(1))

    def made(decode, schedule):
        function = Previews(verifier=brightness, schedule=schedule, decode=decode)
        return generate(
            pipe_of("cogvideox"),
            PROMPT,
            acquisition=function,
            candidates=3,
            progress=False,
            **CALL["cogvideox"],
        )

    exact, linear = (made(decode, ((2, 1),)) for decode in ("exact", "linear"))
    assert linear.selection.totals.tolist() == exact.selection.totals.tolist()
    assert np.array_equal(linear.frames, exact.frames) and "linear map" not in linear.selection.reason
    early = made("linear", ((1, 1),))
    assert early.selection.options["decode"] == "linear" and "linear map" in early.selection.reason
    plain = Session(pipe_of("cogvideox"), PROMPT, **CALL["cogvideox"])
    assert np.array_equal(early.frames, plain.generate(early.selection.recipe.draw()))
    assert seedbed.replay(early.record(), pipe_of("cogvideox"), progress=False).identical


def test_what_goes_into_the_denoising_is_decoded_exactly(pipe_of):
    session = Session(pipe_of("cogvideox"), PROMPT, **CALL["cogvideox"])
    vae, z = session.pipe.vae, torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), ExitStack() as undo:
        own, paused = vae.decode(z).sample, False
        decoder_of(session, "linear").stand_in(1, lambda: paused, undo)
        assert torch.equal(vae.decode(z).sample, own)
        paused = True
        linear = vae.decode(z).sample
        assert linear.shape == own.shape and not torch.equal(linear, own)
        assert torch.equal(vae.decode(z, return_dict=False)[0], linear)


def test_another_autoencoder_is_given_the_latents_in_its_own_scale(pipe_of, tmp_path, monkeypatch):
    pipe = pipe_of("animatediff")
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        upsampling_scaling_factor=2,
    )
    tiny.save_pretrained(tmp_path / "tiny")
    taken, own = [], AutoencoderTiny.decode

    def decode(self, x, *args, **kwargs):
        taken.append(x)
        return own(self, x, *args, **kwargs)

    monkeypatch.setattr(AutoencoderTiny, "decode", decode)
    rows = counted(pipe, monkeypatch)
    made = sheet("animatediff", pipe, decode=tmp_path / "tiny")
    assert rows == [] and len(taken) == 3
    assert made.selection.previews[0].shape == (3, 16, 16, 3)
    assert made.selection.options["decode"] == str(tmp_path / "tiny")
    assert f"previews decoded by the AutoencoderTiny of {tmp_path / 'tiny'}" in made.selection.reason
    made.exact(0, progress=False)
    assert rows == [3]

    given = []
    monkeypatch.setattr(type(pipe.vae), "decode", lambda self, z, *args, **kwargs: given.append(z) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made.exact(0, progress=False)
    torch.testing.assert_close(taken[0], given[0] * pipe.vae.config.scaling_factor)


def test_the_models_own_autoencoder_from_a_folder_decodes_as_it_does(pipe_of, tmp_path):
    for name in ("cogvideox", "ltx"):  # the second with a mean and a deviation of each channel
        pipe = pipe_of(name)
        pipe.vae.save_pretrained(tmp_path / name)
        exact, made = sheet(name, pipe), sheet(name, pipe, decode=str(tmp_path / name))
        for one, other in zip(exact.selection.previews, made.selection.previews, strict=True):
            assert np.abs(one.astype(int) - other).max() <= 1


def test_what_cannot_be_is_refused_in_one_line(pipe_of, tmp_path):
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer/config.json").write_text('{"_class_name": "WanTransformer3DModel"}')
    (tmp_path / "list").mkdir()
    (tmp_path / "list/config.json").write_text("[]")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/config.json").write_text('{"_class_name": "AutoencoderTiny"}')
    pipe = pipe_of("cogvideox")
    ltx = tmp_path / "ltx"
    pipe_of("ltx").vae.save_pretrained(ltx)
    AutoencoderTiny().save_pretrained(tmp_path / "pictures")
    evaluations = []
    hook = pipe.transformer.register_forward_pre_hook(lambda *_: evaluations.append(1))
    for decode, message in (
        ("nowhere", "decode must be exact, linear or the folder of an autoencoder"),
        (3, "decode must be .* not 3"),
        (tmp_path / "transformer", "'WanTransformer3DModel', which is no autoencoder"),
        (tmp_path / "list", "is no config of a diffusers model"),
        (tmp_path / "empty", "does not load as AutoencoderTiny: "),
        (ltx, "decodes latents of 8 channels, but those of CogVideoXPipeline have 4"),
    ):
        with pytest.raises(BadInput, match=message) as error:
            sheet("cogvideox", pipe, decode=decode)
        assert "\n" not in str(error.value)
    with pytest.raises(BadInput, match="decode must be exact"):
        Previews(verifier="shapes", decode="tiny")
    assert not evaluations
    hook.remove()
    with pytest.raises(NotSupported, match="cannot decode latents of shape") as error:
        sheet("cogvideox", pipe, decode=tmp_path / "pictures")
    assert "\n" not in str(error.value) and "decode" not in vars(pipe.vae)
    assert decode_named(ltx) == str(ltx) and json.loads((ltx / "config.json").read_text())


def test_maps_that_cannot_be_fitted_are_refused():
    vae = Places(4, 4, 2, True)
    linear = Linear(session_of(vae))
    z = torch.randn(1, 4, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    wanted = vae.decode(z)[0]
    for latents, pixels, kind, message in (
        (z[..., :1, :], wanted[..., :2, :], NotSupported, "5 latents of 4 channels are too few"),
        (z, wanted[:, :, :8], NotSupported, "which no map of each place alone can"),
        (z, wanted[..., :11, :], NotSupported, "which no map of each place alone can"),
        (z[0, 0], wanted, NotSupported, "without height and width"),
        (z, wanted * torch.nan, BadOutput, "is not finite"),
    ):
        with pytest.raises(kind, match=message) as error:
            linear.pixels(latents, lambda pixels=pixels: pixels)
        assert "\n" not in str(error.value)
    with pytest.raises(NotSupported, match="has no autoencoder called vae"):
        Linear(session_of(None))


def test_means_of_each_frame_are_taken_for_the_frames_there_are(pipe_of, tmp_path):
    """AutoencoderKLCosmos has them for as many frames as it may ever be given."""
    pipe = pipe_of("cogvideox")
    pipe.vae.save_pretrained(tmp_path / "own")
    exact = sheet("cogvideox", pipe, candidates=1)
    settings = json.loads((tmp_path / "own/config.json").read_text())
    for count in (4, 4 * 7):  # of four channels
        (tmp_path / "own/config.json").write_text(json.dumps({**settings, "latents_mean": [0.0] * count}))
        made = sheet("cogvideox", pipe, candidates=1, decode=tmp_path / "own")
        difference = exact.selection.previews[0].astype(int) - made.selection.previews[0]
        assert np.abs(difference).max() <= 1
    (tmp_path / "own/config.json").write_text(json.dumps({**settings, "latents_mean": [0.0] * 5}))
    with pytest.raises(NotSupported, match="cannot decode latents of shape") as error:
        sheet("cogvideox", pipe, candidates=1, decode=tmp_path / "own")
    assert "\n" not in str(error.value)
