"""A verifier means the same everywhere; what it cannot judge is said before anything is denoised."""

import contextlib
import functools

import pytest
import torch

from seedbed import BadInput, Profile, calibrate, contact_sheet, generate, score, select
from seedbed.acquisition import Entropy, Previews
from seedbed.noise import NoiseRecipe
from seedbed.pipelines.session import Session
from seedbed.selection.profile import PreviewPlan
from seedbed.verifiers.clip import Clip
from seedbed.worlds.verifier import attributes
from tests.pipelines import CALLS

CAPTION = "a red circle moving left"
CALL = {**CALLS["cogvideox"], "num_inference_steps": 2, "progress": False}


def noises(width):
    return [NoiseRecipe(seed=0, candidate=i, shape=(3, 4, 4, width // 4), frame_axis=0) for i in range(2)]


# Every way to hand over a verifier: (pipe, prompt, verifier, further arguments) -> something with a record.
WAYS = {
    "select": lambda pipe, prompt, verifier, **more: select(
        pipe, prompt, candidates=2, verifier=verifier, **more
    ),
    "generate": lambda pipe, prompt, verifier, **more: (
        generate(pipe, prompt, candidates=2, verifier=verifier, **more).selection
    ),
    "score": lambda pipe, prompt, verifier, **more: score(
        pipe, prompt, noises(more["width"]), verifier=verifier, **more
    ),
    "contact_sheet": lambda pipe, prompt, verifier, **more: (
        contact_sheet(pipe, prompt, candidates=2, verifier=verifier, **more).selection
    ),
    "Previews": lambda pipe, prompt, verifier, verifier_prompt=None, **more: select(
        pipe,
        prompt,
        candidates=2,
        acquisition=Previews(verifier=verifier, verifier_prompt=verifier_prompt),
        **more,
    ),
}


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


@pytest.fixture
def pipe(pipe_of):
    return pipe_of("cogvideox")


@contextlib.contextmanager
def nothing_denoised(pipe):
    """Fails if the denoiser's last layer runs, other than on shapes alone."""
    seen = []

    def look(module, inputs):
        if type(inputs[0]) is torch.Tensor and inputs[0].device.type == "cpu":
            seen.append(inputs)

    hook = pipe.transformer.proj_out.register_forward_pre_hook(look)
    yield
    hook.remove()
    assert not seen


def refused(pipe, message, run):
    with nothing_denoised(pipe), pytest.raises(BadInput, match=message) as caught:
        run()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_name_and_the_object_choose_alike(pipe, way):
    made = [way(pipe, CAPTION, verifier, **CALL).to_dict() for verifier in ("shapes", attributes)]
    for record in made:
        assert record["options"]["verifier"] == "shapes"
        del record["seconds"], record["digest"]
    assert made[0] == made[1] and made[0]["rungs"]


@pytest.mark.parametrize(
    ("verifier", "message"),
    [
        ("eyes", "there is no verifier 'eyes'"),
        (3, "a verifier is a name or a callable that is no class, not 3"),
        (["shapes"], "a verifier is a name or a callable"),
        (Clip, "a verifier is a name or a callable that is no class, not <class"),
        (lambda frames: frames, r"is called as verifier\(frames, prompts\): too many positional"),
        (lambda frames, prompts, extra: 0, "is called as verifier.*missing a required argument: 'extra'"),
        ("ratings.csv", "ratings judge no new videos"),
    ],
)
def test_what_is_no_verifier_is_refused_before_anything_runs(pipe, way, verifier, message):
    refused(pipe, message, lambda: way(pipe, CAPTION, verifier, **CALL))


@pytest.mark.parametrize(
    ("prompt", "more", "message"),
    [
        ("a koala", {}, "'a koala' is not a sentence of the shapes world"),
        (CAPTION, {"width": 32}, "reads square videos, not 16 x 32"),
    ],
)
def test_what_the_shapes_verifier_cannot_judge(pipe, way, prompt, more, message):
    refused(pipe, message, lambda: way(pipe, prompt, "shapes", **{**CALL, **more}))


def embedded(pipe):
    """The pipeline's own embeddings of the caption."""
    session = Session(pipe, CAPTION, **{k: v for k, v in CALL.items() if k != "progress"})
    kwargs = session.alone.kwargs
    return kwargs["encoder_hidden_states"][:1]


def test_embeddings_are_judged_by_the_text_that_is_given_for_them(pipe, way):
    texts = []

    def judge(frames, prompts):
        texts.extend(prompts)
        return torch.arange(float(len(frames)))

    more = {**CALL, "prompt_embeds": embedded(pipe), "guidance_scale": 1.0}
    refused(pipe, "judges videos by a text, which prompt_embeds are not: add verifier_prompt=",
            lambda: way(pipe, None, judge, **more))  # fmt: skip
    made = way(pipe, None, judge, verifier_prompt=CAPTION, **more)
    assert set(texts) == {CAPTION} and made.best == 1
    assert made.to_dict()["options"]["verifier_prompt"] == CAPTION and made.prompt is None
    refused(pipe, "is not a sentence", lambda: way(pipe, None, "shapes", verifier_prompt="a koala", **more))
    refused(pipe, "verifier_prompt must be a text", lambda: way(pipe, None, judge, verifier_prompt=3, **more))


@pytest.mark.parametrize("make", [select, generate, contact_sheet])
def test_a_text_for_no_verifier_is_refused(pipe, make):
    refused(pipe, "give verifier= too", lambda: make(pipe, CAPTION, verifier_prompt=CAPTION, **CALL))


@pytest.mark.parametrize(
    "acquisition", ["random", Entropy(), "previews:verifier=shapes", Profile(Entropy(), "why")]
)
def test_only_previews_take_a_verifier(pipe, acquisition):
    refused(pipe, "takes no verifier, only previews does: leave one out",
            lambda: select(pipe, CAPTION, acquisition=acquisition, verifier="shapes", **CALL))  # fmt: skip


@pytest.mark.parametrize(("width", "acquisition"), [(16, "previews"), (32, "entropy")])
def test_a_profile_previews_only_frames_that_its_verifier_reads(pipe, width, acquisition):
    plan = PreviewPlan(((1, 1),), "shapes", 2, "it gained")
    profile = Profile(Entropy(), "measured", preview=plan)
    made = select(pipe, CAPTION, acquisition=profile, candidates=2, **{**CALL, "width": width})
    assert made.acquisition == acquisition and made.reason.startswith("auto: ")


def test_a_calibration_on_prompts_that_cannot_be_judged(pipe, tmp_path, capsys):
    prompts = [
        f"a red {word} moving left" for word in "circle square triangle koala dog cat bird fish".split()
    ]
    call = {k: v for k, v in CALL.items() if k != "progress"}
    save = tmp_path / "profile.json"
    for verifier in ("shapes", attributes):
        options = {"verifier": verifier, "steps": (0,), "save": save, **call}
        message = "'a red koala moving left' is not a sentence of the shapes world"
        refused(pipe, message, functools.partial(calibrate, pipe, prompts, 4, **options))
    assert capsys.readouterr().err == "" and not list(tmp_path.iterdir())


def test_a_calibration_names_the_object_as_the_text():
    from seedbed.lab.calibration import described

    assert described("shapes") == described(attributes) == "shapes"
    assert described(contact_sheet) == "seedbed.selection.contact_sheet.contact_sheet"


@pytest.mark.parametrize("option", [{"verifier": "shapes"}, {"acquisition": "previews:verifier=shapes"}])
def test_a_named_verifier_is_loaded_once_for_all_prompts(pipe, monkeypatch, option):
    import seedbed.verifiers

    names, resolve = [], seedbed.verifiers.resolve

    def counted(verifier):
        names.extend([verifier] * isinstance(verifier, str))
        return resolve(verifier)

    monkeypatch.setattr("seedbed.acquisition.previews.resolve", counted)
    monkeypatch.setattr("seedbed.selection.choosing.verifier_named", counted)
    made = select(pipe, [CAPTION, "a blue square staying still"], candidates=2, **option, **CALL)
    assert [each.acquisition for each in made] == ["previews"] * 2 and names == ["shapes"]
