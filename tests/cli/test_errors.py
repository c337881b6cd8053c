import errno
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines import BUILDERS

PROMPT = "a red circle"


def one_line(outcome, *fragments: str) -> None:
    code, out, err = outcome
    assert code == 2
    assert out == ""
    assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1, err
    for fragment in fragments:
        assert fragment in err


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--model", "missing"], "there is no model at missing"),
        (["--model", "some/one"], "there is no folder some/one, and the Hub did not give it"),
        (["--out", "missing/a.mp4"], "in the folder missing: No such file or directory"),
        (["--out", "a.avi"], "must end in .mp4 or .webm or .gif or .png"),
        (["--acquisition", "bansa", "--verifier", "shapes"], "bansa takes no verifier, only previews does"),
        (["--acquisition", "random", "--verifier", "shapes"], "random takes no verifier, only previews does"),
        (["--acquisition", "random:layers=joint"], "which is for entropy, bansa, bansa-dropout"),
        (["--candidates", "100000000"], "--candidates': Input should be less than or equal to 10000"),
        (["--acquisition", "previews"], "previews needs verifier: write previews:verifier=..."),
        (["--acquisition", "bansa:reversed=true"], "bansa has no option 'reversed'"),
        (["--acquisition", "none.json"], "cannot read the profile none.json: No such file or directory"),
        (["--verifier", "eyes"], "there is no verifier 'eyes'"),
        (["--dtype", "int8"], "int8"),
        (["--candidates", "ten"], "--candidates"),
        (["--nonsense"], "--nonsense"),
        (["--candidates", "0"], "--candidates"),
        (["--candidates", "-3"], "--candidates"),
        (["--acquisition", "bansa:depth=0"], "depth"),
        (["--batch-size", "0"], "--batch-size"),
        (["--acquisition", "bansa:keep=0"], "keep"),
        (["--acquisition", "bansa:keep=1.5"], "keep"),
        (["--acquisition", "bansa:masks=1"], "masks"),
        (["--acquisition", "entropy:keep=0.5"], "keep"),
        (["--acquisition", "bonsai"], "bonsai"),
        (["--steps", "0"], "--steps"),
        (["--frames", "0"], "--frames"),
        (["--height", "-8"], "--height"),
        (["--width", "0"], "--width"),
        (["--guidance-scale", "nan"], "--guidance-scale must be a finite number, not nan"),
        (["--guidance-scale", "inf"], "--guidance-scale must be a finite number, not inf"),
        (["--fps", "inf"], "--fps"),
        (["--fps", "1e-9"], "--fps"),
        (["--out", "n" * 300 + ".mp4"], "File name too long"),
        (["--model", ""], "there is no model at ''"),
    ],
)
def test_refused_before_any_model_is_loaded(
    seedbed, tmp_path: Path, arguments: list[str], fragment: str
) -> None:
    # --model comes first: where an argument is at fault, the missing model must not be looked for.
    one_line(seedbed("generate", PROMPT, "--model", "missing", *arguments), fragment)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["generate", "select"])
@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["--acquisition", "bansa:depth=99"], ["99", "3"]),
        (["--acquisition", "bansa:layers=nowhere*"], ["nowhere*"]),
        (["--device", "quantum"], ["quantum"]),
        (["--device", "cuda:99"], ["cuda:99"]),
        (["--device", "meta"], ["there is no device meta"]),
        (["--device", "fpga"], ["there is no device fpga"]),
        (["--height", "17"], ["height"]),
    ],
)
def test_what_the_model_cannot_do(seedbed, model, tmp_path: Path, command: str, arguments, fragments) -> None:
    one_line(seedbed(command, PROMPT, "--model", model, *arguments), *fragments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("prompt", ["", "   "])
def test_empty_prompt(seedbed, prompt: str) -> None:
    for command in (["generate"], ["select"], ["contact-sheet"], ["score", "--seeds", "1"]):
        one_line(seedbed(*command, prompt), "prompt is empty")


def test_folder_that_is_no_pipeline(seedbed, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    one_line(seedbed("generate", PROMPT, "--model", "folder"), "folder is not a diffusers pipeline")
    (tmp_path / "folder" / "model_index.json").write_text('{"_class_name": "NoSuchPipeline"}')
    one_line(seedbed("generate", PROMPT, "--model", "folder"), "does not load as a diffusers pipeline")


def test_damaged_weights(seedbed, model, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "folder")
    weights = tmp_path / "folder" / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    one_line(seedbed("generate", PROMPT, "--model", "folder"), "does not load as a diffusers pipeline")


def test_model_without_attention(seedbed, tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    pipe = BUILDERS["sdxl"]()
    config = {name: value for name, value in pipe.unet.config.items() if not name.startswith("_")}
    config |= {
        "down_block_types": ("DownBlock2D",) * 2,
        "up_block_types": ("UpBlock2D",) * 2,
        "mid_block_type": "UNetMidBlock2D",
    }
    pipe.unet = UNet2DConditionModel.from_config(config)
    pipe.save_pretrained(tmp_path / "plain")
    one_line(
        seedbed(
            *("generate", PROMPT, "--model", "plain", "--height", 16, "--width", 16, "--steps", 2),
            *("--acquisition", "bansa"),
        ),
        "attention",
    )


def test_model_that_returns_nan(seedbed, tmp_path: Path) -> None:
    from tests.pipelines import CALLS

    pipe = BUILDERS["cogvideox"]()
    pipe.transformer.proj_out.weight.data[0, 0] = float("nan")
    pipe.save_pretrained(tmp_path / "broken")
    content = {"schema": "seedbed.model/1", "call": CALLS["cogvideox"]}
    (tmp_path / "broken" / "seedbed.json").write_text(json.dumps(content))
    one_line(seedbed("generate", PROMPT, "--model", "broken", "--candidates", 2), "finite")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_full_disk(seedbed, model, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a.mp4").write_bytes(b"old")
    written = 0

    def fill(descriptor: int) -> None:
        nonlocal written
        written += 1
        if written == 3:  # two of the three files fit
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fill)
    outcome = seedbed("generate", PROMPT, "--model", model, "--candidates", 2, "--out", "a.mp4")
    one_line(outcome, "No space left on device")
    assert ".seedbed-" not in outcome.err
    assert written == 3
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.mp4": b"old"}


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (["generate", PROMPT, "--out", "a.mp4"], "a.html"),
        (["generate", PROMPT, "--out", "a.mp4", "--no-report"], "a.json"),
        (["contact-sheet", PROMPT, "--out", "a.json"], "a.safetensors"),
        (["calibrate", "--world", "shapes", "--out", "a.json"], "a.html"),
    ],
)
def test_folder_where_a_file_beside_would_be(seedbed, tmp_path: Path, arguments: list[str], folder) -> None:
    (tmp_path / folder).mkdir()
    one_line(seedbed(*arguments, "--model", "missing"), f"cannot write {folder}: it is a folder")
    assert [path.name for path in tmp_path.iterdir()] == [folder]


def test_file_that_cannot_be_moved_into_place(tmp_path: Path) -> None:
    from seedbed.cli.outputs import write_together
    from seedbed.errors import BadInput

    (tmp_path / "a").mkdir()
    with pytest.raises(BadInput, match=r"cannot write .*a: Is a directory"):
        write_together({tmp_path / "a": lambda path: path.write_bytes(b"whole")})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("letter", ["x", "円", "𞤀"])
def test_a_name_made_from_any_script_fits_a_folder(tmp_path: Path, letter: str) -> None:
    from seedbed.cli.outputs import named_after, write_together

    names = [named_after(letter * 500, ending) for ending in (".mp4", "-sheet.safetensors")]
    write_together({tmp_path / name: lambda path: path.write_bytes(b"") for name in names})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(map(str, names))
    assert all(str(name).startswith(letter.lower() * 45) for name in names)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(seedbed, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    one_line(seedbed("generate", PROMPT, "--out", "closed/a.mp4"), "not writable")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'{"schema": "seedbed.selection/99"}', bytes(range(256)), b"[" * 100_000],
)
def test_damaged_record(seedbed, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    one_line(seedbed("replay", "a.json"))
    one_line(seedbed("score", PROMPT, "--noise", "a.json"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_altered_record(seedbed, model, tmp_path: Path) -> None:
    assert seedbed("select", PROMPT, "--model", model, "--candidates", 2, "--out", "a.json").code == 0
    record = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps({**record, "prompt": "a blue square"}))
    one_line(seedbed("replay", "a.json"), "altered")


def test_record_that_is_not_there(seedbed) -> None:
    one_line(seedbed("replay", "a.json"), "a.json", "No such file")


def test_record_whose_model_is_gone(seedbed, model, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "here")
    assert (
        seedbed("select", PROMPT, "--model", tmp_path / "here", "--candidates", 2, "--out", "a.json").code
        == 0
    )
    shutil.move(tmp_path / "here", tmp_path / "there")
    one_line(seedbed("replay", "a.json"), "--model")
    assert seedbed("replay", "a.json", "--model", "there").code == 0


def test_score_of_a_noise_of_another_shape(seedbed, model) -> None:
    arguments = ("--model", model, "--candidates", 2, "--out", "wide.json")
    assert seedbed("select", PROMPT, *arguments, "--width", 32).code == 0
    one_line(
        seedbed("score", PROMPT, "--model", model, "--noise", "wide.json"), "(3, 4, 4, 8)", "(3, 4, 4, 4)"
    )


def test_files_appear_together_or_not_at_all(tmp_path: Path) -> None:
    from seedbed.cli.outputs import write_together

    def interrupted(path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_together({tmp_path / "a": lambda path: path.write_bytes(b"whole"), tmp_path / "b": interrupted})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["--seeds", "1,x"], ["--seeds", ","]])
def test_score_without_noises(seedbed, arguments: list[str]) -> None:
    one_line(seedbed("score", PROMPT, *arguments), "--seeds")


def overwritten(folder: Path) -> dict[Path, Any]:
    """Writers of three files, of which there are older ones."""
    names = ("a.mp4", "a.html", "a.json")
    for name in names:
        (folder / name).write_bytes(b"old")
    return {folder / name: lambda path: path.write_bytes(b"new") for name in names}


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_killed_between_two_files_a_record_stands_for_all(tmp_path: Path, moved: int) -> None:
    """A process that ends at once while files are moved: each is whole, and the record is the last."""
    from seedbed.cli.outputs import write_together

    writers, replace, calls = overwritten(tmp_path), os.replace, []
    child = os.fork()
    if not child:

        def killed(source: str, target: str) -> None:
            if len(calls) == moved:
                os._exit(9)
            calls.append(target)
            replace(source, target)

        os.replace = killed  # type: ignore[assignment]
        write_together(writers)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    found = [path.read_bytes() for path in writers]
    assert found == [b"new"] * moved + [b"old"] * (3 - moved)
    rest = [path for path in tmp_path.iterdir() if path not in writers]
    assert [path.name.startswith(".seedbed-") for path in rest] == [True]


@pytest.mark.parametrize("moved", [0, 1, 2])
@pytest.mark.parametrize("failure", [OSError(errno.EACCES, "Permission denied"), KeyboardInterrupt()])
def test_what_is_said_of_files_that_were_moved_is_true(tmp_path: Path, monkeypatch, moved, failure) -> None:
    from seedbed.cli.outputs import write_together
    from seedbed.errors import BadInput

    writers, replace, calls = overwritten(tmp_path), os.replace, []

    def fail(source: str, target: str) -> None:
        if len(calls) == moved:
            raise failure
        calls.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises((BadInput, KeyboardInterrupt)) as caught:
        write_together(writers)
    there = ", ".join(str(path) for path in [*writers][:moved])
    assert str(caught.value).endswith(f"only {there} was written" if moved else "nothing was written")
    assert [path.read_bytes() for path in writers] == [b"new"] * moved + [b"old"] * (3 - moved)
    assert len([*tmp_path.iterdir()]) == 3


def test_ctrl_c_while_files_are_moved_comes_too_late(seedbed, model, tmp_path: Path, monkeypatch) -> None:
    replace = os.replace

    def interrupted(source: str, target: str) -> None:
        replace(source, target)
        if ".seedbed-" not in str(target):  # where each is written first
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(os, "replace", interrupted)
    code, out, err = seedbed("select", PROMPT, "--model", model, "--candidates", 2, "--out", "a.json")
    assert (code, err) == (0, "") and "a.json" in out and (tmp_path / "a.json").exists()
