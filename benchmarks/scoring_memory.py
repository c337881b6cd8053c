"""How much memory does scoring add to a denoiser's forward at 8,192 tokens?

`python benchmarks/scoring_memory.py`: a video transformer of CogVideoX's class (8 heads of width 64, two
layers, 8,192 video tokens, float32, random weights) runs one forward for one candidate, once plain and once
under a tap that scores every attention call with the mask-free BANSA over all query rows. Each runs in a
process of its own. Reports, above what the weights and inputs take,

- the peak of the bytes that live tensors hold, followed through every operation,
- the rise of the process's peak resident memory, which also sees what kernels allocate inside (CPU), or the
  allocator's peak (CUDA).

One layer's attention map over all heads would take 2.2 GB. Writes benchmarks/results/scoring_memory.json and
exits with 1 where scoring needs more than 1.2 times the plain forward.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seedbed.attention.disagreement import bansa_expected
from seedbed.attention.tap import AttentionCall, Tap
from seedbed.files import write_bytes_atomically

LIMIT = 1.2
FRAMES, SIDE, TEXT = 8, 32, 16
RESULT = Path(__file__).parent / "results" / "scoring_memory.json"


class LiveBytes(TorchDispatchMode):
    """Follows the storages of all tensors that operations return: bytes now alive, and their peak.

    Args:
        held: tensors that were there before; views of them count nothing. Where these are fake, fake ones
            are followed, otherwise real ones.
    """

    def __init__(self, held: list[torch.Tensor]) -> None:
        super().__init__()
        self.sizes = {tensor.untyped_storage()._cdata: 0 for tensor in held}
        self.live = self.peak = 0
        self.fake = any(isinstance(tensor, FakeTensor) for tensor in held)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor) and isinstance(tensor, FakeTensor) == self.fake:
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self.sizes:
                    self.sizes[key] = storage.nbytes()
                    self.live += storage.nbytes()
                    self.peak = max(self.peak, self.live)
                    weakref.finalize(storage, self._freed, key)
        return output

    def _freed(self, key: int) -> None:
        self.live -= self.sizes.pop(key)


def measure(scoring: bool, following: bool, device: str) -> dict[str, Any]:
    """One forward in this process: peak bytes above its start and the scores.

    Args:
        following: follow live tensors, which takes time and memory of its own, or look at the process.
    """
    from diffusers import CogVideoXTransformer3DModel

    torch.manual_seed(0)
    model = CogVideoXTransformer3DModel(
        num_attention_heads=8,
        attention_head_dim=64,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        text_embed_dim=64,
        sample_width=2 * SIDE,
        sample_height=2 * SIDE,
        sample_frames=4 * FRAMES - 3,
        max_text_seq_length=TEXT,
        spatial_interpolation_scale=1.0,
    )
    model = model.eval().requires_grad_(False).to(device)
    inputs = {
        "hidden_states": torch.randn(1, FRAMES, 4, 2 * SIDE, 2 * SIDE, device=device),
        "encoder_hidden_states": torch.randn(1, TEXT, 64, device=device),
        "timestep": torch.tensor([999], device=device),
    }
    scores: list[float] = []

    def handler(call: AttentionCall) -> None:
        rows = bansa_expected(call.query, call.key, scale=call.scale, mask=call.mask, causal=call.causal)
        scores.append(call.by_candidate(rows).item())

    def forward() -> None:
        with torch.no_grad():
            if not scoring:
                model(**inputs)
                return
            with Tap(model, handler):
                model(**inputs)

    def peak() -> int:
        if device == "cuda":
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    if following:
        with LiveBytes([*model.parameters(), *model.buffers(), *inputs.values()]) as tracker:
            forward()
        return {"live": tracker.peak, "scores": scores}
    before = peak()
    forward()
    return {"resident": peak() - before, "scores": scores}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--measure", nargs=2, help="plain or scoring, live or resident: in this process")
    arguments = parser.parse_args()
    if arguments.measure:
        kind, what = arguments.measure
        print(json.dumps(measure(kind == "scoring", what == "live", arguments.device)))
        return 0
    # Tensors above this size go back to the system when freed: the resident peak is then that of live memory.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**18)}
    figures: dict[str, dict[str, Any]] = {"plain": {}, "scoring": {}}
    for kind in figures:
        for what in ("live", "resident"):
            command = [sys.executable, __file__, "--device", arguments.device, "--measure", kind, what]
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            figures[kind] |= json.loads(run.stdout.splitlines()[-1])
    result = {
        "tokens": FRAMES * SIDE * SIDE + TEXT,
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else platform.machine(),
        "torch": torch.__version__,
        "bytes": {kind: {name: figures[kind][name] for name in ("live", "resident")} for kind in figures},
        "ratio": {name: figures["scoring"][name] / figures["plain"][name] for name in ("live", "resident")},
        "scores": figures["scoring"]["scores"],
        "limit": LIMIT,
    }
    RESULT.parent.mkdir(exist_ok=True)
    write_bytes_atomically(RESULT, (json.dumps(result, indent=2) + "\n").encode())
    print(json.dumps(result, indent=2))
    return int(max(result["ratio"].values()) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
