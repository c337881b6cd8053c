import json
import re
from pathlib import Path

import pytest

from tests.pipelines import CALLS, PROMPT, cogvideox

PAGE = Path(__file__).parents[2] / "docs" / "selection.md"


def snippets():
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_documented_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pipe = cogvideox()
    pipe.register_to_config(_name_or_path=str(tmp_path))
    (tmp_path / "seedbed.json").write_text(
        json.dumps({"schema": "seedbed.model/1", "call": CALLS["cogvideox"]})
    )
    names = {"pipe": pipe, "prompt": PROMPT}
    for snippet in snippets():
        exec(compile(snippet, str(PAGE), "exec"), names)
    assert names["again"].identical
    assert names["cheap"].ledger.entries["scoring"] == pytest.approx(10 / 3)
    assert names["choice"].acquisition == "first-key"
    assert (tmp_path / "koala.mp4").stat().st_size > 0


def test_the_users_own_function_takes_fewer_than_twenty_lines():
    (own,) = [snippet for snippet in snippets() if "(Acquisition)" in snippet]
    assert len(own.strip().splitlines()) < 20
