"""The benchmark of decoding previews runs, and tells what it saves by what it measured."""

import sys
from pathlib import Path

import pytest

from tests.pipelines import wan

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import preview_decoding


def test_a_sheet_is_counted_by_its_parts(monkeypatch):
    spent = iter((10.0, 3.0, 0.5))
    monkeypatch.setattr(preview_decoding, "seconds", lambda function: (function(), next(spent))[1])
    found = preview_decoding.measure(wan().vae, 5, 64, 64, candidates=4)
    assert found["frames"] == [5, 64, 64] and found["latents"] == [1, 4, 2, 8, 8]
    # One decode, the fit with its first preview and three more, in place of four decodes.
    assert found["saved"] == pytest.approx(1 - (10 + 3 + 3 * 0.5) / 40)
    assert found["times_faster"] == 20
