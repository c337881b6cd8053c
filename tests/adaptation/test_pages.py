"""The pages open without a network, with nothing in the console; a picture of each shows more than paper."""

import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

import seedbed
from seedbed.report.attention_page import maps_page
from tests.pipelines import CALLS

PROMPT = "a red circle moving left"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def pages(pipe_of, tmp_path_factory):
    """A folder with the page of a study, and of maps."""
    folder, asked = tmp_path_factory.mktemp("pages"), {"call": CALLS["cogvideox"], "progress": False}
    study = seedbed.study(pipe_of("cogvideox"), [PROMPT, "a blue square"], **asked)
    study.report(folder / "study.html")
    seedbed.maps(pipe_of("cogvideox"), PROMPT, word="circle", **asked).save(folder / "maps.html")
    return folder


def test_a_report_shows_every_part_and_asks_for_no_other_file(pages):
    page = (pages / "study.html").read_text()
    for heading in ("How broadly each layer attends", "What replacing a layer does", "Entropy and effect"):
        assert f">{heading}</h2>" in page
    assert page.count("thresholded</figcaption>") == 3 and "text-&gt;video" in page
    assert page.count("<video") == 3 * 3 and "ssim · identity" in page
    assert ">Before and after, and the maps</h2>" in page and "what becomes of its videos" in page
    assert 'src="http' not in page and "<link" not in page


def test_maps_open_on_the_narrowest():
    broad, narrow, loud = np.ones((2, 3, 4, 4)), np.zeros((2, 3, 4, 4)), np.full((2, 3, 4, 4), 9.0)
    narrow[:, 1, 2, 2] = 0.1
    maps = [
        {"layer": f"layer {i}", "kind": "cross", "step": 0, "part": "video -> word", "values": values}
        for i, values in enumerate((broad, narrow, loud))
    ]
    data = {"prompt": PROMPT, "model": "", "target": "", "place": None, "maps": maps}
    page = maps_page({**data, "frames": np.zeros((3, 32, 32, 3), np.uint8)})
    (shown,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert json.loads(shown)["first"] == 1


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("name", ["study", "maps"])
def test_a_page_in_a_browser(pages, tmp_path, name):
    picture = tmp_path / "page.png"
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1100,1600")
    # A proxy that is not there: whatever asks for a network fails, and says so in the console.
    run = subprocess.run(
        [BROWSER, *flags, "--enable-logging=stderr", "--proxy-server=127.0.0.1:9",
         "--virtual-time-budget=4000", f"--screenshot={picture}", (pages / f"{name}.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    console = [line for line in run.stderr.splitlines() if "CONSOLE" in line]
    assert console == []
    pixels = np.asarray(Image.open(io.BytesIO(picture.read_bytes())).convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 500


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_the_console_would_be_seen(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<script>missing()</script>")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr")
    run = subprocess.run(
        [BROWSER, *flags, f"--screenshot={tmp_path / 'page.png'}", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" in run.stderr and "missing is not defined" in run.stderr
