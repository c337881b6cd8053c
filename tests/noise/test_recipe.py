"""A recipe draws the very same noise everywhere, and says so when it cannot."""

import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import os
import struct
import tempfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seedbed.errors import BadInput, BadRecord
from seedbed.noise import GivenNoise, Mixed, NoiseRecipe, Packing, prior_named, sha256_of

GOLDEN = NoiseRecipe(
    seed=7,
    candidate=3,
    shape=(4, 3, 2, 2),
    frame_axis=0,
    sha256="d5451cc836540c461c63dabeb72467913b6e596819cd5603d15a2a4f673d223f",
)

numbers = st.integers(0, 2**64 - 1)
shapes = st.lists(st.integers(1, 5), min_size=1, max_size=5).map(tuple)


@st.composite
def recipes(draw):
    shape = draw(shapes)
    frame_axis = draw(st.none() | st.integers(0, len(shape) - 1))
    return NoiseRecipe(draw(numbers), draw(numbers), shape, frame_axis=frame_axis)


def hash_in_another_process(fields, threads):
    torch.set_num_threads(threads)
    return sha256_of(NoiseRecipe(**fields).draw())


def test_the_noise_of_a_recipe_is_known_for_ever():
    noise = GOLDEN.draw()
    assert noise.shape == (4, 3, 2, 2)
    assert noise.dtype == torch.float32
    assert noise.device.type == "cpu"
    expected = torch.tensor([-0.254129082, -0.842804253, -1.98496127, 0.22695379])
    assert torch.equal(noise.flatten()[:4], expected)


def test_the_hash_is_that_of_the_little_endian_float32_bytes():
    noise = GOLDEN.draw()
    content = b"".join(np.float32(value).astype("<f4").tobytes() for value in noise.flatten().tolist())
    assert sha256_of(noise) == hashlib.sha256(content).hexdigest() == GOLDEN.sha256
    assert sha256_of(noise.flip(-1).flip(-1)) == GOLDEN.sha256
    assert sha256_of(noise.permute(3, 2, 1, 0)) != GOLDEN.sha256
    with pytest.raises(BadInput, match="float16"):
        sha256_of(noise.half())


def test_other_processes_and_thread_counts_draw_the_same_noise():
    recipe = NoiseRecipe(11, 5, (13, 8, 30, 45), frame_axis=0)
    fields = {"seed": 11, "candidate": 5, "shape": recipe.shape, "frame_axis": 0}
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        hashes = pool.starmap(hash_in_another_process, [(fields, 1), (fields, 2)], chunksize=1)
    assert hashes == [sha256_of(recipe.draw())] * 2


def test_the_noise_ignores_order_global_seeds_and_default_dtype():
    recipes = [NoiseRecipe(2, candidate, (6, 5)) for candidate in range(4)]
    expected = [recipe.draw() for recipe in recipes]
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state()
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        again = [recipe.draw() for recipe in reversed(recipes)][::-1]
    finally:
        torch.set_default_dtype(default)
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_drawn_noise_belongs_to_the_caller():
    GOLDEN.draw().zero_()
    assert sha256_of(GOLDEN.draw()) == GOLDEN.sha256


@given(recipes())
@settings(max_examples=100, deadline=None)
def test_a_recipe_survives_its_dictionary_and_json(recipe):
    sealed = recipe.sealed()
    assert NoiseRecipe.from_dict(recipe.to_dict()) == recipe
    back = NoiseRecipe.from_dict(json.loads(json.dumps(sealed.to_dict())))
    assert back == sealed
    assert torch.equal(back.draw(), recipe.draw())
    assert tuple(back.draw().shape) == recipe.shape


@given(recipes(), numbers, numbers)
@settings(max_examples=100, deadline=None)
def test_another_seed_or_candidate_is_another_noise(recipe, seed, candidate):
    other = NoiseRecipe(seed, candidate, recipe.shape)
    same = (seed, candidate) == (recipe.seed, recipe.candidate)
    assert torch.equal(other.draw(), recipe.draw()) == same


def test_seed_and_candidate_do_not_trade_places():
    """Neither (1, 2) with (2, 1), nor neighbours with each other: all 64 noises differ."""
    drawn = {sha256_of(NoiseRecipe(s, c, (8,)).draw()) for s, c in itertools.product(range(8), repeat=2)}
    assert len(drawn) == 64


def test_numpy_integers_and_lists_are_taken_as_what_they_say():
    recipe = NoiseRecipe(np.int64(7), np.uint64(3), [np.int32(4), 3, 2, 2], frame_axis=np.int64(0))
    assert recipe.sealed() == GOLDEN
    assert hash(recipe.sealed()) == hash(GOLDEN)
    json.dumps(recipe.to_dict())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": -1}, "seed must be a whole number from 0 to 18446744073709551615, not -1"),
        ({"seed": 2**64}, "seed must be a whole number from 0 to 18446744073709551615, not 1844"),
        ({"seed": 1.0}, "seed must be a whole number .*, not 1.0"),
        ({"seed": True}, "seed must be a whole number .*, not True"),
        ({"seed": "7"}, "seed must be a whole number .*, not '7'"),
        ({"candidate": -3}, "candidate must be a whole number from 0"),
        ({"candidate": None}, "candidate must be a whole number .*, not None"),
        ({"shape": ()}, "shape must be a tuple"),
        ({"shape": "43"}, "shape must be a tuple"),
        ({"shape": 4}, "shape must be a tuple"),
        (
            {"shape": (4, 0)},
            "each length of a noise recipe's shape must be a whole number of at least 1, not 0",
        ),
        ({"shape": (4, 2.0)}, "each length .* must be a whole number of at least 1, not 2.0"),
        ({"shape": (2**16, 2**16)}, r"at most 2\*\*30 elements"),
        ({"frame_axis": 4}, "frame_axis must be a whole number from 0 to 3, not 4"),
        ({"frame_axis": -1}, "0 to 3, not -1"),
        ({"frame_axis": 0.0}, "frame_axis must be a whole number .*, not 0.0"),
        ({"prior": "cauchy"}, "no noise prior 'cauchy'.*gaussian"),
        ({"prior": None}, "no noise prior None"),
        ({"prior": ["gaussian"]}, "no noise prior"),
        ({"refinements": ("freeinit",)}, "refinements must be dictionaries"),
        ({"refinements": None}, "refinements must be dictionaries"),
        ({"sha256": "abc"}, "64 hexadecimal"),
        ({"sha256": "D" * 64}, "64 hexadecimal"),
        ({"sha256": 7}, "64 hexadecimal"),
        ({"sha256": int("1" * 64)}, "64 hexadecimal"),
    ],
)
def test_a_field_out_of_range_is_refused_in_one_line(change, words):
    fields = {"seed": 7, "candidate": 3, "shape": (4, 3, 2, 2), "frame_axis": 0}
    with pytest.raises(BadInput, match=words) as caught:
        NoiseRecipe(**{**fields, **change})
    assert "\n" not in str(caught.value)
    record = {**GOLDEN.to_dict(), **change}
    with pytest.raises(BadRecord, match=words):
        NoiseRecipe.from_dict(record)


def test_the_largest_noise_and_the_last_axis_are_allowed():
    assert NoiseRecipe(2**64 - 1, 2**64 - 1, (2, 2**29), frame_axis=1).frame_axis == 1


def test_a_recipe_cannot_be_changed():
    with pytest.raises(AttributeError):
        GOLDEN.seed = 8


def test_a_sealed_recipe_with_another_hash_is_refused_when_drawn():
    with pytest.raises(BadRecord, match=r"seed 8, candidate 3.*altered"):
        NoiseRecipe(8, 3, (4, 3, 2, 2), sha256=GOLDEN.sha256).draw()
    with pytest.raises(BadRecord, match="altered"):
        NoiseRecipe(8, 3, (4, 3, 2, 2), sha256=GOLDEN.sha256).sealed()


def test_a_saved_recipe_is_sealed_and_loads(tmp_path):
    path = NoiseRecipe(7, 3, (4, 3, 2, 2), frame_axis=0).save(tmp_path / "noise.json")
    assert NoiseRecipe.load(path) == NoiseRecipe.load(str(path)) == GOLDEN
    assert json.loads(path.read_text())["schema"] == {"name": "seedbed.noise-recipe", "version": 1}
    assert os.listdir(tmp_path) == ["noise.json"]


def altered(**changes):
    return json.dumps({**GOLDEN.to_dict(), **changes}).encode()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no JSON, or was cut short"),
        (json.dumps(GOLDEN.to_dict()).encode()[:-9], "no JSON, or was cut short"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "no JSON"),
        (b"[" * 200_000, "no JSON"),
        (b"seed: 7", "no JSON"),
        (b"[]", "not a noise recipe"),
        (b"null", "not a noise recipe"),
        (b"{}", "not a noise recipe"),
        (b'{"schema": "seedbed.noise-recipe"}', "not a noise recipe"),
        (altered(schema={"name": "someone.else", "version": 1}), "not a noise recipe"),
        (altered(schema={"name": "seedbed.noise-recipe", "version": "1"}), "schema version '1'.*reads 1"),
        (altered(schema={"name": "seedbed.noise-recipe", "version": True}), "schema version True.*reads 1"),
        (altered(schema={"name": "seedbed.noise-recipe", "version": 0}), "schema version 0.*reads 1"),
        (altered(schema={"name": "seedbed.noise-recipe", "version": 3}), "version 3.*update seedbed"),
        (altered(schema={"name": "seedbed.noise-recipe", "version": 2}), "'packing' is missing"),
        (altered(seed=8), "altered"),
        (altered(candidate=4), "altered"),
        (altered(shape=[4, 3, 2, 3]), "altered"),
        (altered(sha256="0" * 64), "altered"),
        (altered(sha256=None), "no sha256"),
        (altered(seed=7.5), "damaged.*seed must be a whole number"),
        (altered(prior="pink"), "damaged.*'pink'"),
        (altered(colour="red"), "'colour' is unknown"),
        (
            json.dumps({k: v for k, v in GOLDEN.to_dict().items() if k != "shape"}).encode(),
            "'shape' is missing",
        ),
    ],
)
def test_a_file_that_is_not_this_recipe_is_refused_in_one_line(tmp_path, content, words):
    path = tmp_path / "noise.json"
    path.write_bytes(content)
    with pytest.raises(BadRecord, match=words) as caught:
        NoiseRecipe.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_no_bytes_whatever_load_or_raise_anything_else(content):
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        with pytest.raises(BadRecord):
            NoiseRecipe.load(file.name)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_one_changed_character_never_yields_another_noise(data):
    """A recipe whose file was damaged in one place is refused, or still draws the noise it was saved with."""
    text = json.dumps(GOLDEN.to_dict())
    place = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:place] + data.draw(st.sampled_from('0123456789abcdef",:{}[] -.')) + text[place + 1 :]
    try:
        noise = NoiseRecipe.from_dict(json.loads(damaged)).draw()
    except (BadRecord, ValueError):
        return
    assert sha256_of(noise) == GOLDEN.sha256


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(BadInput, match=r"cannot read .*none\.json: No such file") as caught:
        NoiseRecipe.load(tmp_path / "none.json")
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="cannot read"):
        NoiseRecipe.load(tmp_path)
    with pytest.raises(BadInput, match=r"the folder .*nowhere does not exist"):
        GOLDEN.save(tmp_path / "nowhere" / "noise.json")


# Of the generator of seed 3, candidate 1.
KEY = int.from_bytes(hashlib.sha256(b"seedbed noise" + struct.pack("<QQ", 3, 1)).digest()[:16], "little")

# Of LTX: frames, height and width as tokens, channels beside them, from a noise (channels, frames, ...).
PACKING = Packing((3, 4, 2, 5), (4, 2, 5, 3), (10, 5, 1, 40))


def test_a_recipe_without_the_new_is_written_as_before():
    old = GOLDEN.to_dict()
    assert set(old) == {
        "schema",
        "seed",
        "candidate",
        "shape",
        "prior",
        "frame_axis",
        "refinements",
        "sha256",
    }
    assert old["schema"]["version"] == 1
    for change in ({"prior": "mixed:1"}, {"refinements": ({"refiner": "erasure:n=2"},)}):
        recipe = dataclasses.replace(GOLDEN, sha256=None, **change)
        content = json.loads(json.dumps(recipe.to_dict()))
        assert content["schema"]["version"] == 2 and NoiseRecipe.from_dict(content) == recipe


def test_a_prior_over_frames_draws_from_the_numbers_of_the_recipe():
    plain = NoiseRecipe(5, 2, (4, 3, 2, 2), frame_axis=0)
    assert dataclasses.replace(plain, prior="mixed:0").draw().equal(plain.draw())
    recipe = dataclasses.replace(plain, prior=Mixed(2))
    assert recipe.prior == "mixed:alpha=2.0" and recipe == dataclasses.replace(plain, prior="mixed:2")
    frames = recipe.draw()
    weights = Mixed(2).factor(4, np.random.default_rng())
    wanted = np.einsum("ij,jchw->ichw", weights, plain.draw().double().numpy())
    assert np.abs(frames.numpy() - wanted).max() < 1e-6
    assert recipe.sealed().draw().equal(frames)
    with pytest.raises(BadInput, match="this noise has no axis of frames"):
        dataclasses.replace(recipe, frame_axis=None).draw()


@pytest.mark.parametrize("prior", ["mixed:1", "torch", "gaussian", "shuffled:2,stride=1"])
def test_a_packed_noise_is_drawn_and_then_laid_out(prior):
    recipe = NoiseRecipe(1, 2, (40, 3), prior=prior, frame_axis=1, packing=PACKING)
    drawn = NoiseRecipe(1, 2, PACKING.shape, prior=prior, frame_axis=1).draw()
    assert recipe.draw().equal(drawn.permute(1, 2, 3, 0).reshape(40, 3))
    assert recipe.beside(1).shape == (40, 3)
    content = json.loads(json.dumps(recipe.sealed().to_dict()))
    assert content["schema"]["version"] == 2 and NoiseRecipe.from_dict(content) == recipe.sealed()


@pytest.mark.parametrize(
    "fields",
    [
        ((3, 4), (4, 2), (1, 1)),  # fewer numbers
        ((3, 4), (4, 3), (1, 5)),  # beyond the last
        ((3, 4), (4, 3), (1,)),
        ((3, 4), (12,), (-1,)),
        ((3, 4), 12, (1,)),
        ((0, 4), (0,), (1,)),
        ((), (), ()),
        ((2, 3), (2, 3), (1, 1)),  # twice the same element
        ((4, 4), (4, 4), (3, 1)),
        ((4, 4), (4, 2, 2), (4, 1, 1)),
    ],
)
def test_a_packing_that_does_not_fit_is_refused(fields):
    with pytest.raises(BadInput):
        Packing(*fields)
    names = ("shape", "extents", "strides")
    damaged = {
        **NoiseRecipe(0, 0, (40, 3), packing=PACKING).to_dict(),
        "packing": dict(zip(names, fields, strict=True)),
    }
    with pytest.raises(BadRecord, match="damaged"):
        NoiseRecipe.from_dict(damaged)
    with pytest.raises(BadInput, match="does not fit its shape"):
        NoiseRecipe(0, 0, (40, 4), packing=PACKING)


@pytest.mark.parametrize(
    "packing",
    [
        5,
        0,
        False,
        "tokens",
        [],
        {},
        {"shape": [4]},
        {"shape": [4], "extents": [4], "strides": [1], "step": 1},
    ],
)
def test_what_is_no_packing_is_refused_in_one_line(packing):
    damaged = {**NoiseRecipe(0, 0, (40, 3), packing=PACKING).to_dict(), "packing": packing}
    with pytest.raises(
        BadRecord, match="damaged: a noise recipe's packing must have shape, extents"
    ) as caught:
        NoiseRecipe.from_dict(damaged)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16"])
def test_the_noise_of_torch_is_that_of_a_pipelines_generator(dtype):
    from diffusers.utils.torch_utils import randn_tensor

    recipe = NoiseRecipe(7, 2, (4, 3, 2, 2), prior=prior_named(f"torch:{dtype}" if dtype else "torch"))
    generator = torch.Generator("cpu").manual_seed(9)
    wanted = randn_tensor((1, 4, 3, 2, 2), generator, torch.device("cpu"), getattr(torch, dtype or "float32"))
    assert recipe.draw().equal(wanted[0].float()) and recipe.draw().dtype == torch.float32
    assert recipe.torch_seed == 9 and GOLDEN.torch_seed is None
    other = dataclasses.replace(recipe, sha256="0" * 64)  # as another machine would have sealed it
    assert other.draw().equal(recipe.draw())
    with pytest.raises(BadInput, match="the seed of torch must be"):
        NoiseRecipe(2**64 - 1, 1, (4,), prior="torch").draw()


def test_companions_are_other_noises_of_the_same_prior():
    recipes = [NoiseRecipe(s, c, (4, 8), "repeated", frame_axis=0) for s, c in ((0, 1), (1, 0))]
    recipes += [dataclasses.replace(recipes[0], refinements=({"refiner": "erasure:n=2"},))]
    found = [recipe.beside(number) for recipe in recipes for number in (1, 2, 3)]
    found += [recipe.plain.draw() for recipe in recipes[:2]]
    assert len({sha256_of(noise) for noise in found}) == 11
    assert all(noise[1:].equal(noise[:-1]) for noise in found)
    assert recipes[0].beside(2).equal(recipes[0].sealed().beside(2))
    with pytest.raises(BadInput, match="number must be"):
        recipes[0].beside(0)
    for own in (recipes[0], GivenNoise.of(found[0], 3)):
        assert own.beside(2**64 - 1).shape == (4, 8)
        with pytest.raises(BadInput, match="number must be"):
            own.beside(2**64)
    given = GivenNoise.of(found[0], 3)
    assert given.beside(1).shape == (4, 8) and not given.beside(1).equal(given.beside(2))


def test_a_refined_noise_is_not_drawn_by_its_recipe_alone(tmp_path):
    recipe = GOLDEN.refined({"refiner": "injection:delta=0.1", "model": "a" * 64}, GOLDEN.draw() * 2)
    assert recipe.sha256 == sha256_of(GOLDEN.draw() * 2) and recipe.plain == dataclasses.replace(
        GOLDEN, sha256=None
    )
    assert hash(recipe) is not None
    with pytest.raises(BadRecord, match=r"refined by injection:delta=0.1: replay\(record\)") as caught:
        recipe.draw()
    assert "\n" not in str(caught.value)
    assert NoiseRecipe.load(recipe.save(tmp_path / "noise.json")) == recipe
    with pytest.raises(BadRecord):
        dataclasses.replace(recipe, sha256=None).save(tmp_path / "noise.json")


@pytest.mark.parametrize(
    "entry", [{}, {"refiner": 3}, {"refiner": "a", "model": "b"}, {"refiner": "a", "step": 1}, "erasure"]
)
def test_refinements_that_are_none_are_refused(entry):
    with pytest.raises(BadInput, match="refinements must be dictionaries"):
        NoiseRecipe(0, 0, (4,), refinements=(entry,))


@pytest.mark.parametrize("prior", ["mixed:1", "progressive:2", "repeated", "shuffled:2,stride=2"])
def test_what_steps_add_has_the_correlation_of_the_noise_itself(prior):
    recipe = NoiseRecipe(3, 1, (40, 3), prior=prior, frame_axis=1, packing=PACKING)
    noise = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    factor = prior_named(prior).factor(4, np.random.Generator(np.random.Philox(key=KEY)))
    frames = noise.view(4, 2, 5, 3).permute(3, 0, 1, 2).double().numpy()
    wanted = np.einsum("ij,cjhw->cihw", factor, frames).transpose(1, 2, 3, 0).reshape(40, 3)
    assert np.abs(recipe.correlate(noise).numpy() - wanted).max() < 1e-6
    assert recipe.correlate(noise.half()).dtype == torch.float16
    torch.set_default_dtype(torch.float64)
    try:
        assert recipe.correlate(noise).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
    for independent in ("gaussian", "torch"):
        assert dataclasses.replace(recipe, prior=independent).correlate(noise).equal(noise)
