"""The shell blocks of docs/tasks.md, in their order, as a newcomer types them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs/tasks.md").read_text()


@pytest.mark.slow
def test_the_five_tasks_run(tmp_path):
    command = tmp_path / "bin/seedbed"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from seedbed.cli import main; main()" "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}"}
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == len(re.findall(r"^## ", PAGE, re.MULTILINE)) == 5
    for block in blocks:
        done = subprocess.run(
            ["sh", "-ec", block], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
    named = set(re.findall(r"[\w-]+\.(?:mp4|html|json)\b", PAGE))
    assert named <= {path.name for path in tmp_path.iterdir()} and "good.html" in named
