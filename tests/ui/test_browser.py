"""The page in a browser: type, watch, choose, finish, download, replay, rate; and what it never asks for."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from seedbed.report.video import read_record
from seedbed.verifiers.ratings import Ratings
from tests.pipelines import BUILDERS, CALLS, PROMPT

pytest.importorskip("gradio", reason="needs seedbed[ui]")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("needs chromium on the PATH (apt-get install chromium)", allow_module_level=True)

WAIT = 240_000  # milliseconds, for a machine that has other things to do


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of `seedbed ui` with a tiny model, and its folder."""
    folder = tmp_path_factory.mktemp("ui")
    model = folder / "tiny"
    BUILDERS["cogvideox"]().save_pretrained(model)
    content = {"schema": "seedbed.model/1", "call": CALLS["cogvideox"]}
    (model / "seedbed.json").write_text(json.dumps(content))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["ui", "--port", str(port), "--folder", str(folder / "jobs"), "--model", str(model)]
    process = subprocess.Popen(
        [sys.executable, "-c", "from seedbed.cli import main; main()", *arguments, "--device", "cpu"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        # A suite in a shell's background has it ignored, and the page, which then ignores it too, never ends.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout.readline().startswith("page ")
        yield f"http://127.0.0.1:{port}", folder / "jobs"
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT / 1000) == 130


@pytest.fixture
def opened(server):
    """`opened()`: a page in a browser of its own, of 400 pixels. In the end every request, every line of the
    console and the width of each of them is looked at."""
    requests, lines, pages = [], [], []
    with playwright.sync_playwright() as running:

        def open_one():
            browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 400, "height": 900})
            page.set_default_timeout(WAIT)
            page.on("request", lambda request: requests.append(request.url))
            page.on("console", lambda line: line.type == "error" and lines.append(line.text))
            page.on("pageerror", lambda error: lines.append(str(error)))
            page.goto(server[0])
            pages.append(page)
            return page

        yield open_one
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        wider = [page.evaluate(wide) for page in pages]
        for page in pages:
            page.context.browser.close()
    local = (server[0], server[0].replace("http", "ws"), "data:", "blob:")
    assert [url for url in requests if not url.startswith(local)] == []
    assert lines == []
    assert max(wider) <= 0, "the page is wider than a narrow window"


def text_of(page, name, contains):
    page.locator(f"#{name}", has_text=contains).wait_for()


def focus_by_tab(page, selector):
    """Press Tab until it is there."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"Tab does not lead to {selector}")


def test_from_the_prompt_to_the_ratings(opened, server, tmp_path):
    folder, page = server[1], opened()
    page.get_by_label("Prompt").fill(" ")
    page.locator("#start").press("Enter")
    text_of(page, "problem", "error: the prompt is empty")
    page.get_by_label("Prompt").fill(PROMPT)
    page.get_by_label("Candidates", exact=True).fill("3")
    usual = CALLS["cogvideox"]
    for label, argument in (("Frames", "num_frames"), ("Steps", "num_inference_steps"), ("Height", "height")):
        there = page.get_by_label(label, exact=True).get_attribute("placeholder")
        assert there == str(usual.get(argument, "the model's"))
    page.get_by_label("Steps").fill("x")
    page.locator("#start").press("Enter")
    text_of(page, "problem", "error: steps must be a number")
    page.get_by_label("Steps").fill("3")
    page.locator("#start").press("Enter")  # by the keyboard alone
    items = page.locator("#sheet .thumbnail-item")
    items.nth(2).wait_for()
    text_of(page, "status", "ready")
    for number in (1, 2):
        items.nth(number).press("Enter")
        page.locator("#sheet .thumbnail-item", has_text=f"{number} · finished").wait_for()
    text_of(page, "history", "2 finished")
    (path,) = folder.glob("jobs/*/job.json")
    asked = json.loads(path.read_text())["request"]
    assert (asked["candidates"], asked["steps"], asked["guidance"], asked["prior"]) == (3, 3, None, None)
    page.wait_for_function(
        "() => { const v = document.querySelector('#video video'); return v && v.readyState > 1; }"
    )
    page.locator("#action").get_by_text("Drop it").click()
    items.nth(0).click()
    text_of(page, "status", "1 dropped")
    page.locator("#replay").click()
    text_of(page, "replayed", "identical frames")
    for button, ending in (("download-video", ".mp4"), ("download-record", ".json")):
        with page.expect_download() as download:
            page.locator(f"#{button}").click()
        path = tmp_path / f"take{ending}"
        download.value.save_as(path)
        assert read_record(path)["recipes"][0]["candidate"] == 2

    page.locator("#from-this").get_by_text("From this video").click()
    picture = "![x](http://example.org/x.png)"  # is shown as it is, and asked of nobody
    for word, said in (
        (picture, f"map: {picture}: error: the prompt has no word"),
        ("circle", "map: circle"),
    ):
        page.locator("#word textarea, #word input").fill(word)
        page.locator("#look").press("Enter")
        text_of(page, "told", said)
    page.locator("#map img").wait_for()
    page.locator("#target textarea, #target input").fill("a blue circle moving left")
    page.locator("#edit").press("Enter")
    page.locator("#edited video").wait_for()
    page.locator("#strength textarea, #strength input").fill("2")
    page.locator("#vary").press("Enter")
    text_of(page, "problem", "error: strength must be")
    page.locator("#strength textarea, #strength input").fill("0.2")
    page.locator("#vary").press("Enter")
    text_of(page, "history", "variations")
    text_of(page, "status", "ready")
    items.nth(2).wait_for()

    page.get_by_role("tab", name="Compare").click()
    for side in ("left", "right"):
        page.locator(f"#choose-{side} input").click()
        page.get_by_role("option").nth(int(side == "right")).click()
        page.locator(f"#compare-{side} video").wait_for()
    page.locator("#play-both").click()
    page.wait_for_function(
        "() => [...document.querySelectorAll('#compare video')].filter((v) => !v.paused).length >= 2"
    )

    page.get_by_role("tab", name="Rate").click()
    text_of(page, "rate-prompt", PROMPT)
    page.locator("#rate-right-video video").wait_for()
    page.keyboard.press("1")
    text_of(page, "strengths", "95 %")
    page.locator("#rate-export").click()
    page.locator("#ratings-file a[download]").first.wait_for()
    assert len(Ratings.load(folder / "ratings.csv").ratings) == 2

    page.reload()  # a closed tab loses nothing
    text_of(page, "history", "2 finished")
    items.nth(1).wait_for()
    page.locator("#history label", has_text="2 finished").click()  # its video comes back, and what is of it
    page.locator("#edited video").wait_for()
    page.get_by_text("From this video").click()
    page.locator("#map img").wait_for()


def test_two_browsers_at_once_by_the_keyboard_alone(opened, server):
    pages = opened(), opened()
    for page, words in zip(pages, (PROMPT, "a blue circle moving left"), strict=True):
        focus_by_tab(page, "#prompt textarea")
        page.keyboard.type(words)
        for name, number in (("candidates", "2"), ("steps", "2")):
            focus_by_tab(page, f"#{name} textarea, #{name} input")
            page.keyboard.press("Control+A")
            page.keyboard.type(number)
        focus_by_tab(page, "#start")
        page.keyboard.press("Enter")
    for page, words in zip(pages, (PROMPT, "a blue circle moving left"), strict=True):
        page.locator("#sheet .thumbnail-item").nth(1).wait_for()
        focus_by_tab(page, "#sheet .thumbnail-item")
        page.keyboard.press("Enter")
        page.locator("#sheet .thumbnail-item", has_text="finished").wait_for()
        page.locator("#history label", has_text=words).first.wait_for()
    jobs = sorted(server[1].glob("jobs/*/job.json"))[-2:]
    asked = [json.loads(path.read_text()) for path in jobs]
    assert {job["request"]["prompt"] for job in asked} == {PROMPT, "a blue circle moving left"}
    assert [job["finish"] for job in asked] == [[0], [0]]  # each its own
    for page in pages:  # and both see both, each after a tick of its own
        page.locator("#history label", has_text="1 finished").nth(1).wait_for()
