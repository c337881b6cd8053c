"""A training that is killed and goes on is, bit by bit, the training that was not."""

import json
import os
import random
import resource
import signal
import time
from functools import partial

import pytest
import torch
from accelerate import Accelerator
from filelock import FileLock
from safetensors.torch import load_file

from seedbed.errors import BadInput
from seedbed.training.config import Plan
from seedbed.training.diffusion import train
from seedbed.training.trainer import fit

# All that a step can depend on.
EVERYTHING = dict(
    steps=12,
    accumulate=2,
    batch=1,
    stills={"share": 0.3},
    prior="progressive:2",
    warmup=2,
    cooldown=4,
    ema=0.9,
)


def outcome(folder):
    """Steps and losses of the metrics, and the weights of the model that was kept."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    name = "unet" if (folder / "model/unet").is_dir() else "transformer"
    weights = folder / "model" / name / "diffusion_pytorch_model.safetensors"
    return [
        (line["step"], line["loss"], line["gradient"], line["lr"]) for line in lines
    ], weights.read_bytes()


def outcome_of(config, folder):
    train(config, folder, False)
    return outcome(folder)


def started(config, folder):
    """The training in a process of its own, which has all imports already."""
    child = os.fork()
    if not child:
        try:
            train(config, folder, False)
        finally:
            os._exit(0)
    return child


def test_killed_at_random_and_resumed(config_of, tmp_path):
    config = config_of("cogvideox", **EVERYTHING)
    straight = outcome_of(config, tmp_path / "straight")
    chance, kills, folder = random.Random(time.time_ns()), 0, tmp_path / "killed"
    metrics = folder / "metrics.jsonl"
    while not (folder / "model").is_dir():
        before = len(metrics.read_text().splitlines()) if metrics.is_file() else 0
        child = started(config, folder)
        # From the first step on until some steps later, in the middle of whatever is being done.
        goal, moment = before + chance.randint(1, 4), chance.random() * 0.3
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if metrics.is_file() and len(metrics.read_text().splitlines()) >= goal:
                time.sleep(moment)
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                kills += 1
                break
            time.sleep(0.005)
    assert kills >= 2
    train(config, folder, False)  # nothing is left to do
    assert outcome(folder) == straight
    assert not [*folder.glob(".*")]  # what was half written is gone


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("motion", {"train": "motion", "steps": 6, "accumulate": 1}),
        ("wan", {"train": {"rank": 2}, "cache": True}),
        ("cogvideox", {"workers": 2, "save_every": 5}),
    ],
)
def test_interrupted_and_resumed(config_of, tmp_path, kind, changes):
    config = config_of(kind, **{**EVERYTHING, **changes})
    straight = outcome_of(config, tmp_path / "straight")
    stop = random.randrange(config.steps // 2, config.steps)

    def interrupt(what, done, total):
        if what == "steps" and done == stop:
            raise KeyboardInterrupt

    kept = stop // config.save_every * config.save_every
    with pytest.raises(KeyboardInterrupt, match=f"{kept} of {config.steps} steps are kept in .*; run again"):
        train(config, tmp_path / "broken", interrupt)
    assert outcome_of(config, tmp_path / "broken") == straight


def test_a_full_disk_leaves_the_last_checkpoint(config_of, tmp_path):
    config = config_of("cogvideox", steps=6, log_every=10)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(what, done, total):
        if done == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))

    try:
        with pytest.raises(BadInput, match=r"cannot write .*checkpoint.*the one before is there still"):
            train(config, tmp_path / "full", fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name for path in (tmp_path / "full").iterdir()} == {
        *("config.json", "checkpoint.safetensors", "metrics.jsonl", "lock")
    }
    assert outcome_of(config, tmp_path / "full") == outcome_of(config, tmp_path / "straight")


def test_a_folder_of_another_config_is_refused(config_of, tmp_path):
    train(config_of("cogvideox", steps=1), tmp_path / "run", False)
    with pytest.raises(
        BadInput, match=r"another config \(prior gaussian, now mixed:alpha=1.0, lr 0.001, now"
    ):
        train(config_of("cogvideox", steps=1, lr=0.002, prior="mixed:1"), tmp_path / "run", False)
    (tmp_path / "run/config.json").unlink()  # by hand
    with pytest.raises(BadInput, match=r"checkpoint.safetensors is of another config or number of processes"):
        train(config_of("cogvideox", steps=1, lr=0.002), tmp_path / "run", False)
    (tmp_path / "run/config.json").unlink()
    (tmp_path / "run/checkpoint.safetensors").write_bytes(b"half")
    with pytest.raises(BadInput, match=r"is no checkpoint: .*remove it to begin anew"):
        train(config_of("cogvideox", steps=1), tmp_path / "run", False)


def test_how_often_is_saved_and_who_reads_changes_nothing(config_of, tmp_path):
    plain = outcome_of(config_of("cogvideox", steps=4), tmp_path / "plain")
    other = outcome_of(config_of("cogvideox", steps=4, save_every=1, workers=1), tmp_path / "other")
    assert plain == other


def test_the_average_is_what_is_kept(config_of, tmp_path):
    """The recurrence of the weights, from checkpoints after each step."""
    decay, mean = 0.5, None
    for steps in (1, 2, 3):
        config = config_of("cogvideox", steps=3, ema=decay, save_every=1)

        def stop(what, done, total, steps=steps):
            if done == steps < 3:
                raise KeyboardInterrupt

        try:
            train(config, tmp_path / "run", stop)
        except KeyboardInterrupt:
            assert steps < 3
        state = load_file(tmp_path / "run/checkpoint.safetensors")
        weight = state["weight/proj_out.weight"].double()
        share = 0.0 if steps == 1 else min(decay, steps / (9 + steps))
        mean = weight if mean is None else share * mean + (1 - share) * weight
        assert (state["average/proj_out.weight"] - mean).abs().max() < 1e-6
    kept = load_file(tmp_path / "run/model/transformer/diffusion_pytorch_model.safetensors")
    assert torch.equal(kept["proj_out.weight"], state["average/proj_out.weight"])
    assert not torch.equal(kept["proj_out.weight"], state["weight/proj_out.weight"])


def test_a_config_is_mended_before_the_first_checkpoint(config_of, tmp_path):
    """Not refused as another one's folder, and nothing is kept of the clips that were looked up for it."""
    with pytest.raises(BadInput, match="no layer is called"):
        train(config_of("wan", train={"targets": ["to_z"]}, cache=True), tmp_path / "run", False)
    train(config_of("wan", cache=True, steps=1), tmp_path / "run", False)
    config = config_of("wan", cache=True, steps=1, data={"world": "shapes", "count": 9})
    with pytest.raises(BadInput, match=r"another config \(.*data.count 8, now 9"):
        train(config, tmp_path / "run", False)
    (tmp_path / "run/checkpoint.safetensors").unlink()
    assert outcome_of(config, tmp_path / "run") == outcome_of(config, tmp_path / "new")


class Regression:
    """A task of one's own: two rates of learning, a momentum, and a module that draws (dropout)."""

    size = 4

    def __init__(self):
        torch.manual_seed(0)
        self.module = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Dropout(0.5), torch.nn.LayerNorm(6))
        first, _, last = ({"params": part.parameters()} for part in self.module)
        self.optimiser = torch.optim.SGD([first, {**last, "lr": 0.01}], 0.1, momentum=0.9)
        self.rows = self

    def __getitem__(self, index):
        return torch.randn(6, generator=torch.Generator().manual_seed(index))

    def loss(self, forward, batch):
        return (forward(batch) - batch).square().mean()


def test_a_task_of_ones_own_is_resumed_too(tmp_path):
    def fitted(folder, stop=None):
        def show(what, done, total):
            if done == stop:
                raise KeyboardInterrupt

        folder.mkdir(exist_ok=True)
        task, plan = Regression(), Plan(steps=9, batch=2, accumulate=2, cooldown=4, save_every=2, log_every=4)
        fit(Accelerator(cpu=True), task, plan, folder, "regression", show)
        return task.module.state_dict(), [
            (line["step"], line["loss"]) for line in map(json.loads, open(folder / "metrics.jsonl"))
        ]

    weights, lines = fitted(tmp_path / "straight")
    for stop in (3, 7):
        with pytest.raises(KeyboardInterrupt, match=f"{stop - 1} of 9 steps are kept"):
            fitted(tmp_path / "broken", stop)
    with (tmp_path / "broken/metrics.jsonl").open("ab") as file:  # as a power cut leaves it
        file.write(b'\0\0\0\n3\n[]\n{}\n{"step": 4')
    resumed, again = fitted(tmp_path / "broken")
    assert [step for step, _ in lines] == [4, 8, 9] and again == lines
    assert all(torch.equal(resumed[name], value) for name, value in weights.items())
    with pytest.raises(BadInput, match="a step has 4 rows"):
        fit(Accelerator(cpu=True), Regression(), Plan(steps=9, batch=3), tmp_path, "", lambda *now: None)


def test_a_sample_that_a_kill_came_upon_is_made_after_it(tmp_path):
    made = []

    def sample(step):
        made.append(step)
        if made == [2, 4]:
            raise KeyboardInterrupt

    plan = Plan(steps=6, batch=2, accumulate=2, save_every=2)
    fitted = partial(
        *(fit, Accelerator(cpu=True), Regression(), plan, tmp_path, "", lambda *now: None, sample, 2)
    )
    with pytest.raises(KeyboardInterrupt, match="4 of 6 steps are kept"):
        fitted()
    fitted()
    assert made == [2, 4, 4, 6]


def test_two_at_once_do_not_train_in_one_folder(config_of, tmp_path):
    config = config_of("image", steps=1)
    folder = tmp_path / "run"
    folder.mkdir()
    with FileLock(folder / "lock"), pytest.raises(BadInput, match="another process trains in"):
        train(config, folder, progress=False)
    assert {path.name for path in folder.iterdir()} == {"lock"}
    train(config, folder, progress=False)
