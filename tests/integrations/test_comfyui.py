"""The nodes for ComfyUI, against a stand-in of its interfaces or, with COMFYUI=folder, against a checkout."""

import asyncio
import json
import os
import subprocess
import sys

import pytest
import torch

from seedbed.attention import bansa_expected, row_statistics
from seedbed.errors import BadInput, BadOutput
from seedbed.noise import NoiseRecipe
from tests.integrations import host
from tests.integrations.conftest import COMFYUI, NODES

PLAIN = dict(seed=7, prior="torch", candidate=0, refine="")
real = pytest.mark.skipif(not COMFYUI, reason="needs COMFYUI=folder of a checkout")
standin = pytest.mark.skipif(bool(COMFYUI), reason="what this ComfyUI does not have")


def pool(comfy, **others):
    return (
        dict(latent_image=comfy.latent, sigmas=comfy.sigmas, seed=4, prior="gaussian", candidates=3) | others
    )


def select(comfy, **others):
    own = dict(score="bansa", prefer="low", depth=0.46, rows=0, pictures=False)
    return pool(comfy, model=comfy.model, conditioning=comfy.conditioning, **own) | others


def preview(comfy, **others):
    own = dict(guider=comfy.guider, sampler=comfy.sampler, steps=2, verifier="")
    return pool(comfy, **own) | others


def test_the_extension_names_its_nodes(comfy):
    extension = asyncio.run(comfy.nodes.comfy_entrypoint())
    schemas = [node.define_schema() for node in asyncio.run(extension.get_node_list())]
    assert [schema.display_name for schema in schemas] == [
        "Seedbed Noise",
        "Seedbed Select",
        "Seedbed Preview",
        "Seedbed Pick",
        "Seedbed Verify",
        "Seedbed Refine",
        "Seedbed FreeInit",
        "Seedbed Enhance",
    ]
    assert (NODES / comfy.nodes.WEB_DIRECTORY / "pick.js").is_file()


@pytest.mark.parametrize("shape", [(1, 4, 6, 5), (3, 4, 6, 5), (1, 16, 3, 4, 4)])
def test_a_seed_of_torch_is_the_hosts_own_noise(run, shape):
    from comfy.sample import prepare_noise

    latent = {"samples": torch.zeros(shape)}
    (noise,) = run("SeedbedNoise", **PLAIN | dict(candidate=2)).args
    assert noise.seed == 9
    assert torch.equal(noise.generate_noise(latent), prepare_noise(latent["samples"], 9))


@pytest.mark.parametrize("prior", ["torch", "gaussian", "mixed:1"])
def test_the_recipe_in_the_metadata_draws_the_noise_again(run, comfy, prior):
    metadata = {"workflow": {}}
    (noise,) = run("SeedbedNoise", metadata, **PLAIN | dict(prior=prior, candidate=1)).args
    made = noise.generate_noise(comfy.latent)
    recipe = NoiseRecipe.from_dict(json.loads(json.dumps(metadata["seedbed"])))
    assert torch.equal(recipe.draw(), made[0])
    assert (recipe.frame_axis, recipe.shape, recipe.candidate) == (1, (16, 3, 4, 4), 1)


def test_a_batch_holds_the_next_candidates_and_a_batch_index_picks_one(run, comfy):
    (noise,) = run("SeedbedNoise", **PLAIN | dict(prior="gaussian", candidate=2)).args
    batch = noise.generate_noise({"samples": torch.zeros(3, 4, 6, 5)})
    expected = [NoiseRecipe(7, 2 + place, (4, 6, 5)).draw() for place in range(3)]
    assert torch.equal(batch, torch.stack(expected))
    third = noise.generate_noise({"samples": torch.zeros(1, 4, 6, 5), "batch_index": [2]})
    assert torch.equal(third[0], expected[2])


def test_a_seed_in_half_precision_has_a_recipe_that_says_so(run, comfy):
    metadata = {}
    (noise,) = run("SeedbedNoise", metadata, **PLAIN).args
    made = noise.generate_noise({"samples": torch.zeros(1, 4, 6, 5, dtype=torch.float16)})
    assert made.dtype == torch.float16
    assert torch.equal(NoiseRecipe.from_dict(metadata["seedbed"]).draw().half(), made[0])


def test_a_variation_is_that_of_the_package(run, comfy):
    from seedbed.refinement import rebuilt

    metadata = {}
    asked = PLAIN | dict(prior="gaussian", refine="variation:0.3,index=2")
    (noise,) = run("SeedbedNoise", metadata, **asked).args
    made = noise.generate_noise(comfy.latent)[0]
    recipe = NoiseRecipe.from_dict(metadata["seedbed"])
    assert [entry["refiner"] for entry in recipe.refinements] == ["variation:strength=0.3,index=2"]
    assert torch.equal(rebuilt(recipe)[0], made)
    assert not torch.equal(recipe.plain.draw(), made)


def test_a_recipe_from_outside_is_used_as_it_is(run, comfy):
    recipe = NoiseRecipe(5, 3, (16, 3, 4, 4), "mixed:1", 1).sealed()
    (noise,) = run("SeedbedNoise", **PLAIN, recipe=json.dumps(recipe.to_dict())).args
    assert torch.equal(noise.generate_noise(comfy.latent)[0], recipe.draw())
    with pytest.raises(
        BadInput, match=r"the recipe is of one noise of shape \(16, 3, 4, 4\), the latents have"
    ):
        noise.generate_noise({"samples": torch.zeros(1, 4, 6, 5)})


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"prior": "pink"}, "no noise prior 'pink'"),
        (
            {"refine": "injection"},
            "injection asks the model, which this node has none of: use Seedbed Refine",
        ),
        ({"recipe": "{"}, "the recipe is no JSON"),
        ({"recipe": "{}"}, "not a noise recipe"),
    ],
)
def test_texts_are_checked_before_anything_runs(comfy, inputs, message):
    found = comfy.nodes.SeedbedNoise.validate_inputs(**inputs)
    assert message in found and "\n" not in found
    assert comfy.nodes.SeedbedNoise.validate_inputs(prior="mixed:1", refine=None) is True


def test_a_prior_over_frames_refuses_images(run):
    (noise,) = run("SeedbedNoise", **PLAIN | dict(prior="mixed:1")).args
    with pytest.raises(BadInput, match="no axis of frames"):
        noise.generate_noise({"samples": torch.zeros(1, 4, 6, 5)})


@standin
@pytest.mark.parametrize("prior", ["torch", "gaussian"])
def test_nested_latents(run, comfy, prior):
    latent = {"samples": host.NestedTensor([torch.zeros(1, 16, 3, 4, 4), torch.zeros(1, 8, 10, 4)])}
    (noise,) = run("SeedbedNoise", **PLAIN | dict(prior=prior)).args
    video, sound = noise.generate_noise(latent).unbind()
    assert sound.shape == (1, 8, 10, 4)
    if prior == "torch":
        expected = host.prepare_noise(latent["samples"], 7).unbind()
        assert torch.equal(video, expected[0]) and torch.equal(sound, expected[1])
    else:
        assert torch.equal(video[0], NoiseRecipe(7, 0, (16, 3, 4, 4)).draw())
        assert not torch.isin(sound, video).any()


def calls_of(comfy, noise):
    """Every attention call of the first evaluation, by an override of the test's own."""
    seen = []

    def override(attention, q, k, v, heads, **options):
        given = (q, k, v, heads)
        if not options.get("skip_reshape"):
            q, k = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (q, k))
        seen.append((q.clone(), k.clone()))
        return attention(*given, **options)

    model = comfy.model.clone()
    model.model_options.setdefault("transformer_options", {})["optimized_attention_override"] = override
    guider = type(comfy.guider)(model)
    guider.inner_set_conds({"positive": comfy.conditioning})
    guider.sample(
        noise.generate_noise(comfy.latent),
        comfy.latent["samples"],
        comfy.sampler,
        comfy.sigmas[:2],
        disable_pbar=True,
        seed=0,
    )
    return seen


@pytest.mark.parametrize("score", ["bansa", "entropy"])
def test_select_scores_the_attention_of_the_first_evaluation(run, comfy, score):
    metadata = {}
    found = run("SeedbedSelect", metadata, **select(comfy, score=score, prefer="high"))
    noise, text, recipe, _ = found.args
    totals = []
    for index in range(3):
        (own,) = run("SeedbedNoise", **PLAIN | dict(seed=4, prior="gaussian", candidate=index)).args
        calls = calls_of(comfy, own)
        wanted = max(1, round(0.46 * len(calls)))
        rows = [
            bansa_expected(*call) if score == "bansa" else row_statistics(*call).entropy
            for call in calls[:wanted]
        ]
        totals.append(torch.stack([each.double().mean() for each in rows]).mean().item())
    best = max(range(3), key=totals.__getitem__)
    lines = text.splitlines()
    assert lines[0] == f"{score} of {wanted} layers, high is better, best first"
    assert lines[1].startswith(f"candidate {best}: ") and len(lines) == 4
    shown = {int(line.split()[1][:-1]): float(line.split()[2]) for line in lines[1:]}
    assert [shown[index] for index in range(3)] == pytest.approx(totals, rel=1e-4)
    assert (noise.number, noise.candidate) == (4, best)
    assert metadata["seedbed"] == json.loads(recipe)
    assert torch.equal(
        NoiseRecipe.from_dict(json.loads(recipe)).draw(), noise.generate_noise(comfy.latent)[0]
    )


@standin
def test_select_stops_after_the_layers_that_it_scores_and_leaves_the_model_as_it_was(run, comfy):
    run("SeedbedSelect", **select(comfy, depth=0.5))
    assert comfy.model.model.calls == 4 + 2 + 2
    assert comfy.model.model_options == {"transformer_options": {}}


def test_select_keeps_another_nodes_override(run, comfy):
    seen = []

    def override(attention, *args, **kwargs):
        seen.append(attention)
        return attention(*args, **kwargs)

    model = comfy.model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    text = run("SeedbedSelect", **select(comfy, model=model)).args[1]
    assert seen and text == run("SeedbedSelect", **select(comfy)).args[1]


def test_select_shows_what_the_first_evaluation_predicts(run, comfy):
    images = run("SeedbedSelect", **select(comfy, pictures=True)).args[3]
    assert images.shape == (3, 32, 96, 3) and images.min() >= 0 and images.max() <= 1
    assert not torch.equal(images[0], images[1])


@standin
def test_a_model_whose_attention_cannot_be_seen_is_refused(run, comfy):
    model, conditioning, _ = host.model(passes_options=False)
    with pytest.raises(BadInput, match="attention does not pass transformer_options on"):
        run("SeedbedSelect", **select(comfy, model=model, conditioning=conditioning))


def test_a_score_that_is_no_number_is_refused(run, comfy):
    conditioning = [[torch.full_like(comfy.conditioning[0][0], torch.nan), {}]]
    sigmas = comfy.sigmas * torch.nan if not COMFYUI else comfy.sigmas
    with pytest.raises(BadOutput, match="bansa of candidate 0 is nan"):
        run("SeedbedSelect", **select(comfy, conditioning=conditioning, sigmas=sigmas, depth=1.0))


def test_channels_and_frames_are_the_models_not_the_empty_latents(run, comfy):
    latent = {"samples": torch.zeros(1, 4, 4, 4)}
    _, _, recipe, _ = run("SeedbedSelect", **select(comfy, latent_image=latent, candidates=1)).args
    assert NoiseRecipe.from_dict(json.loads(recipe)).shape == (16, 1, 4, 4)


def test_a_take_that_is_picked_goes_on_from_its_steps(run, comfy):
    takes, images, text = run("SeedbedPreview", **preview(comfy)).args
    assert images.shape == (3, 32, 96, 3) and text == "not judged"
    metadata = {}
    noise, latent, rest, recipe = run("SeedbedPick", metadata, takes=takes, pick=1).args
    assert torch.equal(rest, comfy.sigmas[2:]) and metadata["seedbed"] == json.loads(recipe)
    finish = dict(sampler=comfy.sampler, disable_pbar=True, seed=4)
    whole = comfy.guider.sample(
        noise.generate_noise(comfy.latent), comfy.latent["samples"], sigmas=comfy.sigmas, **finish
    )
    nothing = torch.zeros_like(latent["samples"])
    on = comfy.guider.sample(nothing, latent["samples"], sigmas=rest, **finish)
    torch.testing.assert_close(on, whole, rtol=1e-4, atol=1e-4)


def test_without_a_pick_the_rest_waits(run, comfy):
    takes = run("SeedbedPreview", **preview(comfy)).args[0]
    waiting = run("SeedbedPick", takes=takes, pick=-1)
    assert {type(each).__name__ for each in waiting.args} == {"ExecutionBlocker"} and waiting.ui is not None
    with pytest.raises(BadInput, match="there is no take 3: pick one from 0 to 2"):
        run("SeedbedPick", takes=takes, pick=3)


def test_a_verifier_ranks_the_takes(run, comfy):
    takes, _, text = run("SeedbedPreview", **preview(comfy, verifier="artifacts")).args
    lines = text.splitlines()
    assert lines[0] == "artifacts, best first" and len(lines) == 4
    best = int(lines[1].split()[1][:-1])
    assert takes["best"] == best
    assert run("SeedbedPick", takes=takes, pick=-1).args[0].candidate == best


def test_previews_that_cannot_be_had_are_refused(run, comfy):
    with pytest.raises(BadInput, match="there are 4 steps, so there is no preview after 5"):
        run("SeedbedPreview", **preview(comfy, steps=5))
    with pytest.raises(BadInput, match="there is no verifier 'beauty'"):
        run("SeedbedPreview", **preview(comfy, verifier="beauty"))
    with pytest.raises(BadInput, match="for one latent at a time, not a batch of 2"):
        run("SeedbedPreview", **preview(comfy, latent_image={"samples": torch.zeros(2, 16, 3, 4, 4)}))


def test_refine_writes_the_prediction_into_the_noise(run, comfy):
    from seedbed.refinement.formulas import inject

    (noise,) = run("SeedbedNoise", **PLAIN).args
    asked = dict(noise=noise, guider=comfy.guider, sigmas=comfy.sigmas)
    (refined,) = run("SeedbedRefine", **asked, delta=0.2, sign="add").args
    before, made = noise.generate_noise(comfy.latent), refined.generate_noise(comfy.latent)
    assert refined.seed == noise.seed and made.shape == before.shape

    def velocity(values, sigma):
        start = torch.zeros_like(comfy.latent["samples"])
        # One step of Euler to 0 is the noise minus sigma times what the model predicts of it.
        pair = torch.stack([sigma, sigma * 0])
        end = comfy.guider.sample(
            (values / sigma).float(), start, comfy.sampler, pair, disable_pbar=True, seed=0
        )
        if COMFYUI:
            end = comfy.model.model.process_latent_in(end)
        return (values - end) / sigma

    expected = inject(before.double(), velocity, [comfy.sigmas[index] for index in (0, 2, 3)], delta=0.2)
    torch.testing.assert_close(made, expected.float(), rtol=1e-3, atol=1e-3)
    (same,) = run("SeedbedRefine", **asked, delta=0.0, sign="add").args
    assert torch.equal(same.generate_noise(comfy.latent), before)
    with pytest.raises(BadInput, match="the sigmas hold no step"):
        run("SeedbedRefine", **asked | {"sigmas": comfy.sigmas[:1]}, delta=0.2, sign="add")


def test_freeinit_mixes_the_low_frequencies_of_the_video_that_grew_from_the_noise(run, comfy):
    from seedbed.noise.filters import low_pass, mix_frequencies

    (noise,) = run("SeedbedNoise", **PLAIN | dict(prior="gaussian")).args
    sigmas = comfy.sigmas[1:]  # from .9 on: of flow matching, where a tenth of the video is left
    asked = dict(noise=noise, guider=comfy.guider, sampler=comfy.sampler, stop=0.25, frame_stop=0.5)
    (refined,) = run("SeedbedFreeInit", **asked, sigmas=sigmas, rounds=2).args
    first = made = noise.generate_noise(comfy.latent)
    for number in (1, 2):
        video = comfy.guider.sample(
            made, comfy.latent["samples"], comfy.sampler, sigmas, disable_pbar=True, seed=noise.seed
        )
        low = 0.1 * comfy.model.model.process_latent_in(video) + 0.9 * first
        fresh = NoiseRecipe(7, 0, (16, 3, 4, 4), "gaussian", 1).beside(number)[None]
        low = low / 0.9  # a sampler multiplies a noise by the first sigma
        made = mix_frequencies(low, fresh, low_pass((3, 4, 4), stop=0.25, frame_stop=0.5))
    torch.testing.assert_close(refined.generate_noise(comfy.latent), made, rtol=1e-4, atol=1e-4)
    (nothing,) = run("SeedbedFreeInit", **asked, sigmas=comfy.sigmas, rounds=1).args
    with pytest.raises(BadInput, match="nothing of a video is left at the first sigma"):
        nothing.generate_noise(comfy.latent)
    with pytest.raises(BadInput, match="connect Seedbed Noise, Select or Pick"):
        run("SeedbedFreeInit", **asked | {"noise": refined}, sigmas=sigmas, rounds=1)


@standin
@pytest.mark.parametrize("start", [14.6, 7.0])
def test_freeinit_begins_where_the_noised_video_is_also_with_frames_in_the_batch(run, comfy, start):
    """Of a model of AnimateDiff: what a sampler begins with has the low frequencies of α x0 + σ ε."""
    comfy.model.objects["model_sampling"] = sampling = host.Epsilon()
    sigmas, latent = torch.tensor([start, 2.0, 0.0]), {"samples": torch.zeros(6, 16, 8, 8)}
    (noise,) = run("SeedbedNoise", **PLAIN).args  # of torch, whose batch is one stream
    asked = dict(noise=noise, guider=comfy.guider, sampler=comfy.sampler, stop=1.0, frame_stop=1.0)
    (refined,) = run("SeedbedFreeInit", **asked, sigmas=sigmas, rounds=1).args
    first, made = noise.generate_noise(latent), refined.generate_noise(latent)
    video = comfy.guider.sample(first, latent["samples"], comfy.sampler, sigmas, disable_pbar=True, seed=7)
    began = sampling.noise_scaling(sigmas[0], made, 0, start == 14.6)
    wanted = video + start * first
    # The mean over frames and places passes any filter.
    torch.testing.assert_close(began.mean((0, 2, 3)), wanted.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)
    assert made.shape == first.shape and not torch.allclose(made, first)


def test_verify_judges_finished_frames(run):
    from seedbed.verifiers import judged, resolve

    frames = torch.rand(5, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    score, text = run("SeedbedVerify", images=frames, verifier=" artifacts ").args
    pixels = (frames * 255).round().byte().numpy()
    assert score == judged(resolve("artifacts"), [pixels], "")["score"].item()
    assert text == f"artifacts: {score:.6g}"
    with pytest.raises(BadInput, match="name a verifier"):
        run("SeedbedVerify", images=frames, verifier=" ")


ENHANCE = dict(rule="mix", strength=0.3, layers="", start=0.0, stop=1.0, weight=4.0)


def sampled(comfy, model, noise):
    guider = type(comfy.guider)(model)
    guider.inner_set_conds({"positive": comfy.conditioning})
    return guider.sample(
        noise, comfy.latent["samples"], comfy.sampler, comfy.sigmas, disable_pbar=True, seed=0
    )


@pytest.mark.parametrize("rule", ["mix", "temperature", "frames"])
@pytest.mark.parametrize("layers", ["", "1"])
def test_enhance_changes_the_attention_of_the_video_to_itself(run, comfy, rule, layers):
    """Against an override of the test's own, with maps in full."""
    steps, seen = len(comfy.sigmas) - 1, []

    def override(attention, q, k, v, heads, **options):
        found = attention(q, k, v, heads, **options)
        apart = options.get("skip_reshape")
        q, k, v = (each if apart else each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (q, k, v))
        if q.shape[2] not in (48, 12) or q.shape[2] != k.shape[2]:  # of 3 × 4 × 4, or of patches of two
            return found
        seen.append(q.shape[2])
        number = (len(seen) - 1) % layers_in_all
        if layers and number != 1:
            return found
        if rule == "temperature":
            out = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5 / 1.3, -1) @ v
        elif rule == "mix":
            out = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1) @ v
            out = 0.7 * out + 0.3 * v.mean(2, keepdim=True)
        else:
            frames = [each.unflatten(2, (3, -1)).transpose(2, 3) for each in (q, k)]
            rows = torch.softmax(frames[0] @ frames[1].mT * q.shape[-1] ** -0.5, -1)
            others = (3 - rows.diagonal(dim1=-2, dim2=-1).sum(-1)).flatten(1).mean(1) / 6
            gain = 1 + 0.3 * ((others * (3 + 4)).clamp(min=1) - 1)
            out = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1) @ v * gain.view(-1, 1, 1, 1)
        return out.transpose(1, 2).flatten(2)

    layers_in_all = 2 if COMFYUI else 4
    noise = torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    plain = sampled(comfy, comfy.model, noise)
    (changed,) = run("SeedbedEnhance", model=comfy.model, **ENHANCE | dict(rule=rule, layers=layers)).args
    found = sampled(comfy, changed, noise)
    model = comfy.model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    torch.testing.assert_close(found, sampled(comfy, model, noise), rtol=1e-3, atol=1e-3)
    assert len(seen) == steps * layers_in_all and not torch.allclose(found, plain, atol=1e-5)
    assert torch.equal(sampled(comfy, comfy.model, noise), plain)  # the model that was given is as it was


def test_enhance_keeps_to_its_window_and_other_nodes_overrides(run, comfy):
    noise = torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    seen = []

    def override(attention, *args, **kwargs):
        seen.append(1)
        return attention(*args, **kwargs)

    model = comfy.model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    plain = sampled(comfy, model, noise)
    every = len(seen)
    (late,) = run("SeedbedEnhance", model=model, **ENHANCE | dict(start=0.5)).args
    seen.clear()
    changed = sampled(comfy, late, noise)
    per_step = every // 4
    own = 2 if COMFYUI else 4
    limit = comfy.model.get_model_object("model_sampling").percent_to_sigma(0.5)
    inside = int((comfy.sigmas[:-1] <= limit).sum())
    assert len(seen) == every - inside * own and per_step >= own and 0 < inside < 4
    assert not torch.equal(changed, plain)
    (none,) = run("SeedbedEnhance", model=comfy.model, **ENHANCE | dict(strength=0.0)).args
    assert torch.equal(sampled(comfy, none, noise), plain)


def test_two_enhancements_of_other_layers_do_not_disturb_one_another(run, comfy):
    noise = torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(5))

    def both(*order):
        model = comfy.model
        for layers in order:
            (model,) = run("SeedbedEnhance", model=model, **ENHANCE | dict(layers=layers)).args
        return sampled(comfy, model, noise)

    torch.testing.assert_close(both("0", "1"), both("0, 1"))
    torch.testing.assert_close(both("1", "0"), both("0, 1"))


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"strength": -0.5}, "the strength of mix must be"),
        ({"start": 0.5, "stop": 0.5}, "the window from 0.5 to 0.5 holds no step"),
        ({"layers": "3-1"}, "layers from 3 to 1 are none"),
        ({"layers": "1;2"}, "layers are numbers such as 0, 3-5, not '1;2'"),
    ],
)
def test_enhance_refuses_what_it_cannot_do(run, comfy, asked, message):
    with pytest.raises(BadInput, match=message):
        run("SeedbedEnhance", model=comfy.model, **ENHANCE | asked)


def test_enhance_names_a_layer_that_is_not_there(run, comfy):
    (model,) = run("SeedbedEnhance", model=comfy.model, **ENHANCE | dict(layers="1, 7-9")).args
    with pytest.raises(BadInput, match=r"there is no layer 9: the model has [24], from 0"):
        sampled(comfy, model, torch.zeros(1, 16, 3, 4, 4))


@standin
def test_enhance_refuses_a_model_whose_attention_cannot_be_seen(run, comfy):
    model, _, _ = host.model(passes_options=False)
    (model,) = run("SeedbedEnhance", model=model, **ENHANCE).args
    with pytest.raises(BadInput, match="no attention of this model is of the video alone"):
        sampled(comfy, model, torch.zeros(1, 16, 3, 4, 4))


@standin
def test_the_nodes_import_no_diffusers():
    """And choose by attention without it: only verifiers and refiners need it."""
    code = """
import sys, pytest
sys.modules["diffusers"] = sys.modules["transformers"] = None
from tests.integrations import host, conftest
import torch
with pytest.MonkeyPatch.context() as patch:
    host.install(patch)
    nodes = conftest.load_nodes()
    model, conditioning, _ = host.model()
    latent = {"samples": torch.zeros(1, 16, 2, 2, 2)}
    found = nodes.SeedbedSelect.execute(
        model, conditioning, torch.tensor([1.0, 0.5]), latent, 0, "torch", 2, "bansa", "low", 0.46, 0, False)
    print(found.args[1].splitlines()[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=NODES.parents[1], env={**os.environ}
    )
    assert done.stdout.strip() == "bansa of 2 layers, low is better, best first", done.stderr
