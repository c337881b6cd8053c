"""The example workflows, run by the server of a real ComfyUI on loopback: COMFYUI=folder of a checkout.

The weights of the examples are replaced by a denoiser of two layers in Wan's format, its text encoder and
autoencoder by nodes of the tests' own.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from seedbed.noise import NoiseRecipe
from tests.integrations.conftest import COMFYUI, NODES, tiny_wan

pytestmark = pytest.mark.skipif(not COMFYUI, reason="needs COMFYUI=folder of a checkout")
EXAMPLES = NODES.parents[1] / "examples" / "comfyui"


def prepare(base):
    """A folder of a user's: the nodes linked, tiny weights."""
    for folder in ("custom_nodes", "models/diffusion_models", "input", "output", "temp"):
        (base / folder).mkdir(parents=True)
    (base / "custom_nodes" / "seedbed").symlink_to(NODES)
    shutil.copytree(Path(__file__).parent / "tiny_host", base / "custom_nodes" / "tiny_host")
    save_file(tiny_wan(), base / "models" / "diffusion_models" / "tiny.safetensors")


def tiny(name, **changes):
    """An example workflow as it runs here; `changes` are inputs of its nodes by their class."""
    graph = json.loads((EXAMPLES / name).read_text())
    for node in graph.values():
        kind, inputs = node["class_type"], node["inputs"]
        if kind == "UNETLoader":
            inputs["unet_name"] = "tiny.safetensors"
        elif kind == "EmptyHunyuanLatentVideo":
            inputs.update(width=64, height=64, length=9)
        elif kind == "BasicScheduler":
            inputs["steps"] = 4
        elif kind == "CLIPTextEncode":
            node["class_type"] = "TinyText"
            del inputs["clip"]
        elif kind == "VAEDecode":
            node["class_type"] = "TinyDecode"
            del inputs["vae"]
        inputs.update(changes.get(node["class_type"], {}))
    return {
        number: node
        for number, node in graph.items()
        if node["class_type"] not in ("CLIPLoader", "VAELoader")
    }


class Server:
    def __init__(self, base):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.log = base / "server.log"
        command = [
            sys.executable,
            "main.py",
            "--cpu",
            "--listen",
            "127.0.0.1",
            "--port",
            self.address.split(":")[1],
            "--disable-api-nodes",
            "--base-directory",
            str(base),
        ]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=COMFYUI, stdout=log, stderr=subprocess.STDOUT, env={**os.environ}
            )
        self.wait(lambda: self.ask("/system_stats"), 240)

    def ask(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"http://{self.address}{path}", data, timeout=30) as answer:
            return json.load(answer)

    def wait(self, found, seconds):
        for _ in range(seconds * 2):
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(OSError):
                if value := found():
                    return value
            time.sleep(0.5)
        raise AssertionError(self.log.read_text())

    def run(self, graph):
        """The outputs of a workflow by node, and how it ended."""
        number = self.ask("/prompt", {"prompt": graph, "extra_data": {"extra_pnginfo": {}}})["prompt_id"]
        history = self.wait(lambda: self.ask(f"/history/{number}").get(number), 120)
        return history["outputs"], history["status"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    prepare(base)
    server = Server(base)
    server.base = base
    yield server
    server.process.terminate()
    server.process.wait(30)


def test_the_nodes_are_there(server):
    info = server.ask("/object_info")
    found = sorted(name for name in info if name.startswith("Seedbed"))
    kinds = ("Enhance", "FreeInit", "Noise", "Pick", "Preview", "Refine", "Select", "Verify")
    assert found == [f"Seedbed{kind}" for kind in kinds]


def test_select_from_the_model_to_the_saved_frames(server):
    outputs, status = server.run(tiny("select.json"))
    assert status["status_str"] == "success", status
    scores = outputs["11"]["text"][0].splitlines()
    assert scores[0] == "bansa of 2 layers, low is better, best first" and len(scores) == 7
    assert len(outputs["12"]["images"]) == 6
    saved = server.base / "output" / outputs["15"]["images"][0]["filename"]
    recipe = NoiseRecipe.from_dict(json.loads(Image.open(saved).info["seedbed"]))
    best = int(scores[1].split("seed ")[1][:-1])
    assert recipe.torch_seed == best and recipe.shape == (16, 3, 8, 8)
    expected = torch.randn((1, 16, 3, 8, 8), generator=torch.Generator().manual_seed(best))
    assert torch.equal(recipe.draw(), expected[0])


def test_pick_waits_and_goes_on_with_the_one_that_is_picked(server):
    small = {"SeedbedPreview": {"steps": 2}}
    outputs, status = server.run(tiny("pick.json", **small))
    assert status["status_str"] == "success" and "15" not in outputs
    assert len(outputs["11"]["images"]) == 4
    outputs, status = server.run(tiny("pick.json", **small, SeedbedPick={"pick": 2}))
    assert status["status_str"] == "success" and len(outputs["15"]["images"]) == 3
    saved = server.base / "output" / outputs["15"]["images"][0]["filename"]
    assert json.loads(Image.open(saved).info["seedbed"])["candidate"] == 2


def test_enhance_from_the_model_to_the_score_of_the_video(server):
    outputs, status = server.run(tiny("enhance.json"))
    assert status["status_str"] == "success", status
    assert outputs["18"]["text"][0].startswith("artifacts: ")
    frames = [Image.open(server.base / "output" / each["filename"]) for each in outputs["15"]["images"]]
    off, _ = server.run(tiny("enhance.json", SeedbedEnhance={"strength": 0.0}))
    plain = [Image.open(server.base / "output" / each["filename"]) for each in off["15"]["images"]]
    assert len(frames) == 3
    assert any(a.tobytes() != b.tobytes() for a, b in zip(frames, plain, strict=True))


def test_a_bad_prior_is_one_line_before_anything_runs(server):
    graph = tiny("select.json", SeedbedSelect={"prior": "pink"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.run(graph)
    errors = json.load(refused.value)["node_errors"]["10"]["errors"]
    assert "no noise prior 'pink'" in errors[0]["details"] and "\n" not in errors[0]["details"]
