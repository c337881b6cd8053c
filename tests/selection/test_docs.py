import re
from pathlib import Path

from tests.pipelines import PROMPT

PAGE = Path(__file__).parents[2] / "docs" / "selection.md"


def snippets():
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_documented_snippets_run(pipe_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"pipe": pipe_of("cogvideox"), "prompt": PROMPT}
    for snippet in snippets():
        exec(compile(snippet, str(PAGE), "exec"), names)
    assert names["again"].identical
    assert names["choice"].acquisition == "first-key"
    assert (tmp_path / "koala.mp4").stat().st_size > 0


def test_the_users_own_function_takes_fewer_than_twenty_lines():
    (own,) = [snippet for snippet in snippets() if "(Acquisition)" in snippet]
    assert len(own.strip().splitlines()) < 20
