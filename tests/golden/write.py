"""Writes `records.jsonl`: what every pipeline of the table makes, with its record.

`python -m tests.golden.write` with one thread. Each line has the record of a generation, chosen by BANSA
among three noises, and that of one chosen by previews, whose scores are checksums of the previewed frames.
The test beside it replays them and makes them again. Frames depend on how a machine rounds, so the first line
is a fingerprint of its arithmetic: elsewhere only choices and scores are compared.
"""

import hashlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers

import seedbed
from seedbed.acquisition import Bansa, Previews
from tests.pipelines import FAMILIES, Family

FILE = Path(__file__).with_name("records.jsonl")
QUIET: dict[str, Any] = dict(progress=False)


def fingerprint() -> dict[str, str]:
    """Of the arithmetic that frames depend on: packages, and how this machine rounds."""
    torch.manual_seed(0)
    x, w = torch.randn(2, 16, 5, 9, 9), torch.randn(16, 16, 3, 3, 3)
    y = torch.nn.functional.conv3d(x, w).flatten(2).transpose(1, 2)
    y = torch.nn.functional.scaled_dot_product_attention(y, y, y) @ torch.randn(16, 64)
    values = [y, torch.nn.functional.gelu(y).exp(), torch.nn.functional.group_norm(x, 4)]
    digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in values)).hexdigest()
    packages = (torch, diffusers, transformers, np)
    return {package.__name__: package.__version__ for package in packages} | {"arithmetic": digest}


def checksums(videos: np.ndarray, prompts: list[str]) -> list[float]:
    """A verifier whose scores tell whether previews are the same bit by bit."""
    return [float(zlib.crc32(np.ascontiguousarray(video).tobytes())) for video in videos]


def made(family: Family) -> dict[str, Any]:
    """The records of one pipeline, without those that the table says are not supported."""
    pipe, quiet = family.built(), {**QUIET, **family.call}
    line: dict[str, Any] = {"name": family.name}
    if "selection" not in family.unsupported:
        bansa = Bansa(depth=None)
        made = seedbed.generate(pipe, family.prompt, candidates=3, acquisition=bansa, **quiet)
        line["attention"] = made.record()
    if "previews" not in family.unsupported:
        previews = Previews(verifier=checksums, schedule=((1, 1),))
        chosen = seedbed.generate(pipe, family.prompt, candidates=2, acquisition=previews, **quiet)
        line["previews"] = chosen.record()
    return line


def lines() -> Iterator[dict[str, Any]]:
    yield fingerprint()
    for family in FAMILIES:
        yield made(family)


if __name__ == "__main__":
    torch.set_num_threads(1)
    FILE.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines()))
