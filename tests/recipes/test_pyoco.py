"""The scripts of arms, measurements and cascade at a tiny size; what a cascade of the paper's sizes costs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/pyoco"))
import cascade as script
import keep
import paper
import pyoco_page as page

from recipes.pyoco import arms, choose, layers, measure
from seedbed.pipelines.call import settings_beside
from seedbed.pipelines.cascade import bicubic
from seedbed.pipelines.loading import load
from seedbed.statistics import bootstrap
from seedbed.training.config import Config, Videos
from seedbed.training.data import clips_of
from seedbed.training.denoisers import motion_modules
from seedbed.worlds import shapes, verifier
from seedbed.worlds.verifier import attributes
from tests.pipelines.animatediff import cascade
from tests.training.conftest import image_pipeline


def test_every_stage_is_held_against_its_twin(tmp_path, capsys):
    cascade(interpolation=2, super_resolution=2).save_pretrained(tmp_path / "model")
    call = {"num_frames": 3, "height": 16, "width": 16}
    (tmp_path / "model/seedbed.json").write_text(json.dumps({"schema": "seedbed.model/1", "call": call}))
    out = tmp_path / "results.json"
    script.main([str(tmp_path / "model"), "--out", str(out), "--count", "2", "--steps", "1"])
    found = json.loads(out.read_text())["stages"]
    assert found["interpolation"]["size"] == [5, 16, 16]
    assert found["super_resolution"]["size"] == [5, 32, 32]
    printed = capsys.readouterr().out
    for name, stage in found.items():
        difference = stage["error"]["stage"][0] - stage["error"]["twin"][0]
        assert stage["error"]["difference"][0] == pytest.approx(difference)
        lost = stage["error"]["difference"][2] >= 0 or stage["score"]["difference"][2] < 0
        assert stage["wins"] is not lost
        assert f"{name}: error {difference:+.2e}" in printed


def test_the_papers_sizes_and_what_they_cost():
    config = json.loads(paper.CONFIG.read_text())
    found = paper.costs(config)
    sizes = [(16, 64, 64), (76, 64, 64), (76, 256, 256), (76, 1024, 1024)]
    assert [row["size"] for row in found] == sizes
    for row, (frames, height, width) in zip(found, sizes, strict=True):
        latent = row["network"] in ("unet", "interpolation")
        channels, height, width = (4, height // 2, width // 2) if latent else (3, height, width)
        assert row["makes"] == (channels, frames, height, width)
        # A convolution of 3 x 3 multiplies and adds once for each weight and place.
        stage = config["stages"].get(row["network"])
        first = stage["network"]["widths"][0] if stage else config["base"]["block_out_channels"][0]
        given = 2 * channels + 1 if stage else channels
        assert sum(row["first layer"].values()) == 2 * 9 * given * first * frames * height * width
        assert row["operations"] > sum(row["first layer"].values())
    assert paper.table(found) in paper.CONFIG.with_name("README.md").read_text()


def test_the_twins_are_exact_where_they_can_be():
    """Interpolation of what is linear, and enlargement of what is flat, are right; halves are means."""
    times = torch.arange(7, dtype=torch.float64)
    clip = times.view(1, 1, 7, 1, 1).expand(1, 2, 7, 2, 2)
    assert (script.linear(clip[:, :, ::3], 3) - clip).abs().max() < 1e-12
    some = torch.randn(1, 2, 4, 3, 3, dtype=torch.float64)
    twice = script.linear(some, 2)
    assert torch.equal(twice[:, :, ::2], some)
    assert torch.allclose(twice[:, :, 1::2], (some[:, :, 1:] + some[:, :, :-1]) / 2)
    flat = torch.full((1, 3, 2, 4, 4), 0.25)
    assert torch.allclose(bicubic(flat, 3), torch.full((1, 3, 2, 12, 12), 0.25))


def held_out(count):
    scenes = [scene for _, scene in zip(range(count), shapes.scenes(5, held=True), strict=False)]
    return np.stack([shapes.render(scene) for scene in scenes]), [shapes.caption(s) for s in scenes]


def test_a_stage_is_held_against_its_twin(monkeypatch):
    """One that makes its twin's output ties; the truth wins; noise loses."""
    pipe = cascade(interpolation=2, super_resolution=2)
    videos, captions = held_out(4)
    score = lambda frames, prompts: attributes(frames, prompts)["score"]  # noqa: E731
    monkeypatch.setattr(pipe, "decode_latents", lambda latents, chunk=16: latents)
    monkeypatch.setattr(script, "latents_of", lambda vae, pixels: pixels)
    true = torch.from_numpy(videos).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    small = torch.nn.functional.avg_pool3d(true, (1, 2, 2))
    for name, twin in (
        ("interpolation", script.linear(true[:, :, ::2], 2)),
        ("super_resolution", bicubic(small, 2)),
    ):
        method = {"interpolation": "interpolate", "super_resolution": "enlarge"}[name]
        random = torch.randn(true.shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
        found = {}
        for what, made in (("twin", twin), ("truth", true), ("noise", random)):
            monkeypatch.setattr(pipe, method, lambda *args, made=made, **options: made)
            found[what] = script.against_twin(pipe, name, videos, captions, score)
        new = slice(1, None, 2) if name == "interpolation" else slice(None)
        expected = ((twin - true)[:, :, new].double() / 2).square().mean()
        assert found["twin"]["error"]["twin"].mean == pytest.approx(float(expected))
        assert found["twin"]["error"]["difference"].mean == 0 and not script.wins(found["twin"])
        assert found["truth"]["error"]["stage"].mean == 0 and found["truth"]["score"]["stage"].mean == 1
        assert script.wins(found["truth"]) and not script.wins(found["noise"])
        assert found["noise"]["score"]["difference"].high < 0


def test_twins_of_real_stages_see_what_the_autoencoder_shows():
    pipe = cascade(interpolation=2, super_resolution=2)
    videos, captions = held_out(3)
    videos = videos[:, :5, ::2, ::2]
    score = lambda frames, prompts: np.arange(len(frames))  # noqa: E731
    for name in ("interpolation", "super_resolution"):
        one = script.against_twin(pipe, name, videos, captions, score, steps=1)
        parts = script.against_twin(pipe, name, videos, captions, score, steps=1, batch=1)
        assert one["error"]["stage"].mean == pytest.approx(parts["error"]["stage"].mean, rel=1e-3)
        assert one["error"]["twin"].mean > 0.01  # of an autoencoder that was not trained
        assert one["error"]["difference"].mean == pytest.approx(
            one["error"]["stage"].mean - one["error"]["twin"].mean
        )


def small(tmp_path, monkeypatch):
    """An image model of random weights, 2 training steps and 2 of sampling."""
    image_pipeline().save_pretrained(tmp_path / "image")
    content = {**json.loads(arms.VIDEO.read_text()), "batch": 2, "frames": 3, "cooldown": 1, "warmup": 0}
    content["samples"]["call"]["num_inference_steps"] = 2
    (tmp_path / "video.json").write_text(json.dumps(content))
    monkeypatch.setattr(arms, "VIDEO", tmp_path / "video.json")
    monkeypatch.setattr(arms, "captions_of", lambda world, count: ["a red circle moving up"] * 2)
    return ["--model", str(tmp_path / "image"), "--steps", "2"]


@pytest.mark.parametrize("more", [[], ["--convolutions"], ["--shift", "4"]])
def test_an_arm_is_trained_and_measured(tmp_path, monkeypatch, more):
    start, out = small(tmp_path, monkeypatch), tmp_path / "arm"
    arms.main([*start, "--prior", "mixed:1", "--seed", "5", "--out", str(out), *more])
    (point,) = map(json.loads, (out / "curve.jsonl").read_text().splitlines())
    assert point["step"] == 2 and len(point["score"]) == 2
    monkeypatch.setattr(measure, "REAL", 20)
    asked = ["--frames", "3", "--captions", "2", "--out", str(tmp_path / "found.json")]
    measure.main([str(out / "model"), *asked])
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["seed"], found["prior"], found["kind"]) == (5, "mixed:1", "own")
    changed = {"--convolutions": ", convolutions", "--shift": ", shift 4"}[more[0]] if more else ""
    assert found["arm"] == f"mixed:1{changed}, from {start[1]}"
    assert json.loads((out / "arm.json").read_text()).get("shift") == (4 if "--shift" in more else None)
    assert [len(some) for some in found["values"]["score"]] == [4, 4]
    assert found["fvd"] > found["fvd of real ones"][1] and 1 <= found["inception"][0] <= 60
    assert [len(some) for some in found["values"]["diversity"]] == [1, 1]
    if not more:  # from a clip of another colour
        measure.main([str(out / "model"), *asked, "--video", "0.5"])
        found = json.loads((tmp_path / "found.json").read_text())
        assert (found["kind"], found["strength"]) == ("from video", 0.5)
        assert [len(some) for some in found["values"]["colour"]] == [4, 4]
    with pytest.raises(SystemExit, match="holds another arm"):
        arms.main([*start, "--prior", "gaussian", "--out", str(out), *more])
    # Run again, a finished training is left as it is.
    before = (out / "checkpoint.safetensors").read_bytes()
    arms.main([*start, "--prior", "mixed:1", "--seed", "5", "--out", str(out), *more])
    assert (out / "checkpoint.safetensors").read_bytes() == before


def test_temporal_convolutions_begin_as_the_identity_and_replace_all_attention(tmp_path):
    image_pipeline().save_pretrained(tmp_path / "image")
    plain, changed = (arms.pipeline(tmp_path / "image") for _ in range(2))
    count = len(motion_modules(plain.unet))
    arms.convolve(changed.unet, 0)
    assert not motion_modules(changed.unet)
    assert sum(isinstance(module, arms.Convolutions) for module in changed.unet.modules()) == count > 0
    noisy, words = torch.randn(1, 4, 3, 16, 16), torch.randn(3, 12, 16)
    with torch.no_grad():
        expected = plain.unet(noisy, 5, words).sample
        torch.testing.assert_close(changed.unet(noisy, 5, words).sample, expected)


def test_temporal_layers_are_timed_beside_none(tmp_path, monkeypatch):
    start, out = small(tmp_path, monkeypatch), tmp_path / "layers.json"
    monkeypatch.setattr(layers, "VIDEO", arms.VIDEO)
    layers.main(["--model", start[1], "--rounds", "2", "--out", str(out)])
    found = json.loads(out.read_text())["layers"]
    assert found["none"]["time"] == [1, 1, 1]
    image = load(start[1]).unet
    assert found["none"]["parameters"] == sum(each.numel() for each in image.parameters())
    assert (
        found["attention"]["parameters"] > found["none"]["parameters"] < found["convolutions"]["parameters"]
    )


def test_choice_is_measured_under_the_prior_of_an_arm(tmp_path, monkeypatch):
    start, out = small(tmp_path, monkeypatch), tmp_path / "arm"
    arms.main([*start, "--prior", "mixed:1", "--out", str(out), "--convolutions"])
    seen = []
    monkeypatch.setattr(
        choose, "captions_of", lambda world, count: ["a red circle moving up", "a blue circle moving up"]
    )
    monkeypatch.setattr(choose, "signals", lambda pool, names: [])
    whole = choose.measure_choices
    rows = lambda *given: seen.append(given[3]["choose"]["prior"]) or whole(*given)  # noqa: E731
    monkeypatch.setattr(choose, "measure_choices", rows)
    kept = choose.measure_noises
    drawn = lambda *given: seen.append(given[3]["prior"]) or kept(*given)  # noqa: E731
    monkeypatch.setattr(choose, "measure_noises", drawn)
    choose.measure(out / "model", 1, 2, 2)
    assert seen == ["mixed:1"] * 6


def test_choice_and_injection_are_measured_on_an_image_model(tmp_path):
    image_pipeline().save_pretrained(tmp_path / "image")
    out = tmp_path / "found.json"
    asked = ["--frames", "1", "--captions", "2", "--noises", "3", "--out", str(out)]
    choose.main([str(tmp_path / "image"), *asked])
    found = json.loads(out.read_text())
    assert (found["kind"], found["arm"]) == ("choose", "no temporal layer")
    assert (
        [each["signal"] for each in found["signals"]]
        == ["0/bansa-k10", "0/bansa"]
        == [*found["lowest of ten"]]
    )
    assert found["prior"] == "gaussian"
    right = 2 * 3 * 3 * found["random"][0]  # of three attributes of each frame
    assert right == pytest.approx(round(right), abs=0.01) and 0 <= found["gap"][0] <= 1


def test_the_clip_that_a_video_begins_with_says_the_caption_but_for_the_colour():
    frames = measure.source("a yellow square moving up", 8, 3)
    (thing,) = verifier.read(np.stack(frames)[None])[0].objects
    assert len(frames) == 8 and frames[0].size == (32, 32)
    assert (thing.shape, thing.motion) == ("square", "moving up") and thing.colour != "yellow"


def test_what_stands_still_and_single_frames_are_told():
    """Of a right video all is right; of one whose first frame is repeated the motion alone is not."""
    scene = next(s for s in shapes.scenes(3, pairs=0) if s[0].motion == "moving left")
    video = shapes.render(scene)
    found = measure.rows_of([video, np.repeat(video[:1], 9, 0)], shapes.caption(scene), "shapes")
    assert found["frozen"] == [0, 1] and found["frames"] == [1, 1] and found["score"] == [1, 0.75]


def results():
    """Of three seeds: `mixed` is .1 better than independent noise, `progressive` as good."""
    made = {}
    for arm, more in (("gaussian", 0.0), ("mixed:1", 0.1), ("progressive:2", 0.0)):
        for seed in (2, 3, 4):
            score = [[0.5 + 0.01 * n + more + (seed - 3) * 0.02] for n in range(8)]
            values = dict.fromkeys(("score", "motion", "frames", "flicker", "diversity"), score)
            values["frozen"] = [[], *[[0.0]] * 7]
            own = {"arm": arm, "seed": seed, "prior": arm, "kind": "own", "frames": 8, "values": values}
            own |= {"world": "shapes", "fvd": 3.0 + seed, "inception": [4.0, 0.1]}
            own["curve"] = [{"step": 150, "score": [0.25, 0.75]}]
            made[f"{arm}-{seed}"] = own
    made["alone"] = {**made["mixed:1-2"], "arm": "mixed:2", "prior": "mixed:2"}
    for seed in (2, 3, 4):
        moved = {
            "score": [[each + 0.1 for each in some] for some in made[f"mixed:1-{seed}"]["values"]["score"]]
        }
        values = {**made[f"mixed:1-{seed}"]["values"], "motion": moved["score"], **moved}
        made[f"shifted-{seed}"] = {**made[f"mixed:1-{seed}"], "arm": "mixed:1, shift 4", "values": values}
    for prior in ("gaussian", "mixed:1"):
        made[f"{prior}-convolutions"] = {**made["mixed:1-2"], "arm": f"{prior}, convolutions", "prior": prior}
    made["layers"] = {
        "kind": "layers",
        "layers": {"attention": {"parameters": 1500, "time": [1.2, 1.1, 1.3]}},
    }
    other = {"prior": "gaussian", "kind": "other"}
    made["cross"] = {**made["mixed:1-2"], **other}
    values = dict.fromkeys(("score", "colour", "digit", "motion", "all_right"), [[0.5]] * 8)
    begun = {**made["mixed:1-2"], "kind": "from video", "strength": 0.6, "values": values}
    made["begun"] = begun
    written = {"kind": "own", "world": "digits", "inception": [5, 0.5], "inception of real ones": [7, 0.5]}
    made["digits"] = {**begun, **written, "arm": "gaussian"}
    made["digits-other"] = {**begun, **written, "arm": "gaussian", "kind": "other", "prior": "mixed:1"}
    made["long"] = {**made["mixed:1-2"], "kind": "longer", "frames": 16}
    lowest = {"gain": [0.01, 0, 0.02], "p": 0.3}
    said = {"within": [0.1, 0, 0.2], "p": 0.04}
    made["choose"] = {
        "kind": "choose", "arm": "no temporal layer", "frames": 1, "random": [0.9], "gap": [0.1],
        "signals": [{"signal": name, **said} for name in ("a", "b")],
        "lowest of ten": {"a": lowest, "b": lowest}, "injection": [0.02, 0.01, 0.03],
    }  # fmt: skip
    signal = {"signal": "0/bansa", "within": [0.1, 0, 0.2], "p": 0.04, "low": [0.01, 0, 0.02]}
    row = {
        "verifier": False,
        "cost": 1.2,
        "against": "a random noise",
        "gain": [0.02, 0.01, 0.03],
        "p": "0.020",
    }
    made["final-10400"] = {"kind": "final", "front": {"ANSE": row}, "signals": [signal]}
    fit = {"alpha": [1.5, 1, 2], "residual": [0.1, 0.1, 0.1]}
    maps = {"same": [0.4, 0.3, 0.5], "cross": [0.1, 0, 0.2], "lags": [[0.5, 0, 1]], "mixed": fit}
    maps["progressive"] = {"alpha": [2.5, 2, 3], "residual": [0.05, 0, 0.1]}
    made["noise-shapes"] = {
        "kind": "noise",
        "videos": 4,
        "maps": maps,
        "leak": maps,
        "prior": "progressive:2.5",
    }
    return made


def test_the_page_holds_priors_against_independent_noise():
    found = results()
    text = page.measured(found)
    same = "+0.100 [+0.100, +0.100]"
    row = f"| mixed:1 | gaussian | {same} | {same} | +0.100, +0.100, +0.100 | 0.016 |"  # 2/2^8, twice
    assert row in text
    assert "| progressive:2 | gaussian | +0.000 [+0.000, +0.000] |" in text
    assert f"| mixed:1, shift 4 | mixed:1 | {same} |" in text and "| progressive:2, shift 4 |" not in text
    assert "6.0 (5.0 to 7.0)" in text
    assert f"| mixed:2 | gaussian | {same} | {same} |" in text  # of one seed
    none = "+0.000 [+0.000, +0.000]"
    assert f"| mixed:1, convolutions | gaussian, convolutions | {none} | {none} |" in text
    line = next(line for line in text.splitlines() if line.startswith("| gaussian | 3 |"))
    assert line.endswith(" | –, –, – |")  # none reaches .6
    assert "| attention | 1,500 | 1.20 [1.10, 1.30] |" in text
    chosen = "+0.100 [+0.000, +0.200], p 0.040 | +0.010 [+0.000, +0.020], p 0.300 |"
    assert f"| no temporal layer | 1 | 0.900 | 0.100 | {chosen} {chosen} +0.020 [+0.010, +0.030] |" in text
    row = next(line for line in text.splitlines() if line.startswith("| mixed:1 | 0.6"))
    assert row.endswith("| – |")  # sampled from progressive noise: not measured
    assert "| mixed:1 | 16 | 0.615" in text
    assert "| mixed:1 | mixed:1 | 0.6 | 0.500 [0.500, 0.500] | 50 % [50, 50] |" in text
    assert "| gaussian | 0.500 [0.500, 0.500] | 50 % [50, 50] | 50 % [50, 50] | 5.00 ± 0.50 | 7.00" in text
    assert "| ANSE | no | 1.2 × | a random noise | +0.020 [+0.010, +0.030] | 0.020 |" in text
    assert "| bansa | +0.100 [+0.000, +0.200] | 0.040 | +0.010 [+0.000, +0.020] |" in text
    row = "| shapes | 4 | 0.400 [0.300, 0.500] | 0.400 [0.300, 0.500] | 0.100 [0.000, 0.200] | 0.50 |"
    assert row + " progressive, 2.50 [2.00, 3.00] | `progressive:2.5` |" in text
    assert page.curves(found)["gaussian"] == [(150, *bootstrap([0.25, 0.75]))]


def test_steps_to_a_score_are_read_off_the_curve():
    curve = [{"step": 300, "score": [0.2, 0.6]}, {"step": 600, "score": [0.8]}, {"step": 900, "score": [0.5]}]
    assert page.reached(curve, 0.4) == 300 and page.reached(curve, 0.6) == pytest.approx(450)
    assert page.reached(curve, 0.2) == 150 and page.reached(curve, 0.9) is None


def test_the_page_is_what_the_committed_results_make():
    assert page.PAGE.read_text() == page.page(page.read()), "run recipes/pyoco/pyoco_page.py"


def test_the_card_is_what_the_committed_evaluation_makes():
    found = json.loads((keep.FOLDER / "evaluation.json").read_text())
    config = Config.load(Path(keep.__file__).with_name(f"{found['trainings'][-1]}.json"))
    for path, text in keep.pages(found).items():
        assert path.read_text() == text, f"{path} is out of date: run recipes/pyoco/keep.py"
    assert settings_beside(load(str(keep.FOLDER)))["prior"] == config.prior


@pytest.mark.parametrize("path", sorted(arms.VIDEO.parent.glob("*.json")))
def test_every_training_finds_its_clips(path):
    content = json.loads(path.read_text())
    if content.get("schema") == "seedbed.training/1":
        config = Config.load(path)
        if isinstance(config.data, Videos):  # real.py writes them
            assert config.data.videos == "runs/real/train"
            return
        assert len(clips_of(config.data, config.frames)) == config.data.count
