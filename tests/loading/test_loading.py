"""One loader of models: what it takes, what it gives, and what it says of what it cannot load."""

import json
import logging
import shutil
import warnings
from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from diffusers import DDIMScheduler

from seedbed.errors import BadInput
from seedbed.pipelines import loading
from seedbed.pipelines.loading import DEFAULT, EMBEDDED, load, locate, names, recorded_name
from seedbed.selection.provenance import Model
from tests.pipelines import BUILDERS

PACKAGE = Path(loading.__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    BUILDERS["cogvideox"]().save_pretrained(folder)
    return folder


def refusal(*arguments, **options):
    with pytest.raises(BadInput) as caught:
        load(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_in_float32_on_the_cpu(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    pipe = load(Path("tiny"), device="cpu")
    assert (pipe.name_or_path, pipe.device.type) == (str(folder), "cpu")
    assert set(Model.of(pipe).dtypes.values()) == {"float32"}


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_one_dtype_for_all_components(folder, dtype):
    assert set(Model.of(load(folder, dtype=dtype, device="cpu")).dtypes.values()) == {"bfloat16"}


def test_a_dtype_for_each_component(folder):
    pipe = load(folder, dtype={"transformer": "float16", "vae": torch.bfloat16}, device="cpu")
    assert Model.of(pipe).dtypes == {"transformer": "float16", "vae": "bfloat16", "text_encoder": "float32"}


@pytest.mark.parametrize(("bfloat16", "expected"), [(True, "bfloat16"), (False, "float16")])
def test_a_gpu_is_taken_where_there_is_one_with_the_dtype_it_has(folder, monkeypatch, bfloat16, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("seedbed.pipelines.loading.has_device", lambda place: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bfloat16)
    places = []
    monkeypatch.setattr(diffusers.DiffusionPipeline, "to", lambda pipe, place: places.append(place) or pipe)
    assert set(Model.of(load(folder)).dtypes.values()) == {expected}
    assert places[-1].type == "cuda"


@pytest.mark.gpu
def test_a_model_on_a_gpu():
    pipe = load()
    assert (pipe.device.type, pipe.transformer.dtype) == ("cuda", torch.bfloat16)


def test_the_scheduler_that_a_record_holds(folder):
    kept = load(folder, device="cpu").scheduler
    scheduler = DDIMScheduler(num_train_timesteps=77)
    wanted = {"class": "DDIMScheduler", "config": json.loads(scheduler.to_json_string())}
    found = load(folder, device="cpu", scheduler=wanted).scheduler
    assert type(kept) is not DDIMScheduler
    assert type(found) is DDIMScheduler and found.config.num_train_timesteps == 77
    said = refusal(folder, device="cpu", scheduler={**wanted, "class": "NoSuchScheduler"})
    assert said == "this diffusers has no scheduler NoSuchScheduler"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "quantum"}, "unknown device 'quantum': use cpu, cuda or cuda:1"),
        ({"device": "cuda:99"}, "there is no device cuda:99 on this machine: use cpu"),
        ({"device": "meta"}, "there is no device meta on this machine: use cpu"),
        ({"device": "fpga"}, "there is no device fpga on this machine: use cpu"),
        ({"dtype": "float33"}, "'float33' is no dtype: use float32, float16 or bfloat16"),
        ({"dtype": {"vae": "Tensor"}}, "'Tensor' is no dtype: use float32, float16 or bfloat16"),
    ],
)
def test_a_device_or_dtype_that_is_none(folder, options, message):
    assert refusal(folder, **{"device": "cpu", **options}) == message


@pytest.mark.parametrize("model", ["missing", "", "/nowhere/at-all", "a/b/c", "seedbed:zoo"])
def test_no_such_model(model):
    said = refusal(model)
    assert said.startswith(
        f"there is no model at {model or repr('')}: give the folder of a diffusers pipeline"
    )
    assert said.endswith(f"or one of {', '.join(names())}")


def test_a_folder_that_does_not_load(folder, tmp_path):
    assert refusal(tmp_path) == f"{tmp_path} is not a diffusers pipeline: it has no model_index.json"
    shutil.copytree(folder, tmp_path / "damaged")
    weights = tmp_path / "damaged/transformer/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    said = refusal(tmp_path / "damaged", device="cpu")
    assert said.startswith(f"{tmp_path / 'damaged'} does not load as a diffusers pipeline: ")


def test_a_name_that_the_hub_does_not_give(monkeypatch):
    def unreachable(*arguments, **options):
        raise OSError("\n  no connection\nat all")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", unreachable)
    said = refusal("some/one", device="cpu")
    assert said == "there is no folder some/one, and the Hub did not give it: no connection"


def test_embedded_models_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert names() == list(EMBEDDED)
    assert locate(None) == locate(DEFAULT) == str(PACKAGE / "zoo/models" / DEFAULT)
    for name in names():
        folder = Path(locate(name))
        assert (folder / "model_index.json").is_file()
        assert recorded_name(str(folder)) == f"seedbed:models/{name}"
        assert locate(f"seedbed:models/{name}") == str(folder)


@pytest.mark.parametrize(
    "model",
    [
        "shapes-cogvideox-fine",
        "shapes-cogvideox-loose",
        "shapes-cogvideox-snr",
        "shapes-cogvideox-unread",
        "seedbed:zoo/models/shapes-cogvideox",  # in records of the DEFAULT before this one
        "seedbed:zoo/models/shapes-cogvideox-snr",
    ],
)
def test_a_former_model_is_refused_with_the_commit_that_holds_it(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refusal(model)
    assert said.startswith(f"{model} is a model that seedbed no longer has: check out commit 7adb95a ")
    assert "\n" not in said
    (tmp_path / "shapes-cogvideox-snr").mkdir()
    (tmp_path / "shapes-cogvideox-snr/model_index.json").write_text("{}")
    assert locate("shapes-cogvideox-snr") == str(tmp_path / "shapes-cogvideox-snr")


def test_a_folder_of_an_embedded_models_name_comes_first(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, DEFAULT)
    assert locate(DEFAULT) == str(tmp_path / DEFAULT)
    assert locate(None) != locate(DEFAULT)


@pytest.mark.parametrize("model", ["", "some/one", "relative", "/nowhere"])
def test_other_models_are_recorded_as_they_are(model, tmp_path, monkeypatch):
    monkeypatch.chdir(locate(None))
    assert recorded_name(model) == model
    assert recorded_name(str(tmp_path / DEFAULT)) == str(tmp_path / DEFAULT)


def test_a_record_finds_its_model_in_another_installation(tmp_path, monkeypatch):
    pipe = BUILDERS["cogvideox"]()
    pipe.register_to_config(_name_or_path=str(locate(DEFAULT)))
    recorded = Model.of(pipe).model
    monkeypatch.setattr(loading, "_PLACE", tmp_path)
    assert locate(recorded) == str(tmp_path / DEFAULT)
    assert recorded_name(locate(recorded)) == recorded


def test_a_model_of_a_checkout_is_found_there_and_missed_in_one_line_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "_CHECKOUT", tmp_path)
    name = loading.CHECKOUT[0]
    with pytest.raises(BadInput, match=f"{name} is not in the package: clone"):
        locate(name)
    (tmp_path / name).mkdir()
    assert locate(name) == str(tmp_path / name)
    assert recorded_name(locate(name)) == loading.RECORDED + name
    assert locate(loading.RECORDED + name) == str(tmp_path / name)
    (tmp_path / "other").mkdir()
    assert recorded_name(str(tmp_path / "other")) == str(tmp_path / "other")


def test_what_chatters_is_silent_only_while_it_loads(folder, monkeypatch, capfd):
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    hub = logging.getLogger("huggingface_hub")

    def state():
        chatter = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in libraries]
        return [*chatter, hub.level, list(warnings.filters)]

    kept = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in libraries]
    original, during = diffusers.DiffusionPipeline.from_pretrained, []

    def seen(*arguments, **options):
        during.append(state())
        warnings.warn("chatter", stacklevel=1)
        return original(*arguments, **options)

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", seen)
    try:
        for log in libraries:
            log.set_verbosity_info()
            log.enable_progress_bar()
        before = state()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load(folder, device="cpu")
        assert state() == before
        (folder / "vae/config.json").rename(folder / "vae/gone")
        refusal(folder, device="cpu")
        assert state() == before
    finally:
        (folder / "vae/gone").rename(folder / "vae/config.json")
        for log, (verbosity, bars) in zip(libraries, kept, strict=True):
            log.set_verbosity(verbosity)
            (log.enable_progress_bar if bars else log.disable_progress_bar)()
    assert len(during) == 2
    for chatter in during:
        assert chatter[:3] == [(logging.ERROR, False), (logging.ERROR, False), logging.ERROR]
    assert capfd.readouterr() == ("", "")


def test_a_checkpoint_that_does_not_fit_a_pipeline_of_the_hub(tmp_path, monkeypatch):
    def unfit(*given):
        raise BadInput("it lacks weights of the denoiser")

    (tmp_path / "a.safetensors").write_bytes(b"")
    monkeypatch.setattr(loading, "single_file", unfit)
    told = refusal(tmp_path / "a.safetensors", config="some/one", device="cpu")
    assert told == f"{tmp_path / 'a.safetensors'} does not load: it lacks weights of the denoiser"
