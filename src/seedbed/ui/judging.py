"""The parts of the page where finished videos are judged: side by side, and blindly in pairs."""

from __future__ import annotations

import functools
import html
import json
import random
import re
import threading
from collections.abc import Callable
from typing import Any

import gradio as gr

from seedbed.errors import SeedbedError
from seedbed.ui.comparisons import Comparisons, Pair, finished
from seedbed.ui.jobs import Jobs, ending

# Keys choose on the page for rating, unless something is typed.
KEYS = """<script>
document.addEventListener("keydown", (event) => {
  const target = event.target;
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (target.tagName === "TEXTAREA" || (target.tagName === "INPUT" && target.type !== "radio")) return;
  const id = {"1": "rate-left", "2": "rate-right", "0": "rate-neither"}[event.key];
  const button = id && document.getElementById(id);
  if (button && button.offsetParent) button.click();
});
</script>"""
PLAY = """() => {
  const videos = [...document.querySelectorAll("#%s video, #%s video")];
  videos.forEach((video) => { video.pause(); video.currentTime = 0; video.loop = true; video.muted = true; });
  videos.forEach((video) => video.play());
}"""


def plain(text: str) -> str:
    """A text in one line that Markdown shows as it is: a prompt may look like a link, a picture or a tag."""
    return html.escape(re.sub(r"([!#$%()*+,\-./:;=?@\[\\\]^_`{|}~])", r"\\\1", " ".join(text.split())))


def saying(function: Callable[..., Any], others: int) -> Callable[..., Any]:
    """The function's outputs and "" for the problem, or its error in one line and the others as they are."""

    @functools.wraps(function)
    def run(*given: Any) -> Any:
        try:
            outputs = (*function(*given), "")
        except SeedbedError as error:
            outputs = (*[gr.skip()] * others, f"error: {plain(str(error))}")
        return outputs if others else outputs[0]  # as Gradio takes a single one

    return run


def _named(jobs: Jobs) -> list[tuple[str, str]]:
    """Every finished video and its edits, the youngest job's first: what it is called, and its file."""
    found = []
    for job in reversed(jobs.all()):
        for each in (each for each in range(job.request.candidates) if job.has("finish", each)):
            edits = [what for what, number in job.more if number == each and what.startswith("edit:")]
            for words, path in (
                (job.request.prompt, job.file(each, ".mp4")),
                *((f"edit: {what[5:]}", job.file(each, ending(what)).with_suffix(".mp4")) for what in edits),
            ):
                if path.is_file():
                    found.append((f"{' '.join(words.split()):.60} · {job.called(each)}", str(path)))
    return found


def compare(jobs: Jobs, tab: Any) -> None:
    """Two finished videos side by side, started together."""
    choices, videos = [], []
    with gr.Row():
        for side in ("left", "right"):
            with gr.Column(min_width=280):
                choices.append(gr.Dropdown([], label=side.capitalize(), elem_id=f"choose-{side}"))
                videos.append(gr.Video(elem_id=f"compare-{side}", loop=True, interactive=False, label=side))
    both = gr.Button("Play both", elem_id="play-both")
    both.click(None, js=PLAY % ("compare-left", "compare-right"))

    def opened(*chosen: str | None) -> list[Any]:
        named = _named(jobs)
        known = [path for _, path in named]
        return [gr.Dropdown(choices=named, value=one if one in known else None) for one in chosen]

    tab.select(opened, choices, choices, api_visibility="private")
    for choice, video in zip(choices, videos, strict=True):
        choice.change(
            lambda path: path if path in [known for _, known in _named(jobs)] else None,
            choice,
            video,
            api_visibility="private",
        )


def rate(jobs: Jobs, problem: Any, tab: Any) -> None:
    """Two takes of one prompt without their names; what is said of them; the strengths that follow."""
    comparisons, draw = Comparisons(jobs.folder / "comparisons.json"), random.Random()
    one_by_one = threading.Lock()
    pair = gr.State(None)
    prompt = gr.Markdown(elem_id="rate-prompt")
    with gr.Row():
        videos = [
            gr.Video(
                elem_id=f"rate-{side}-video",
                label=side,
                autoplay=True,
                loop=True,
                interactive=False,
                buttons=[],
                min_width=280,
            )
            for side in ("left", "right")
        ]
    with gr.Row():
        buttons = [
            (gr.Button(text, elem_id=f"rate-{better}", min_width=120), better)
            for text, better in (
                ("1: left is better", "left"),
                ("0: no difference", "neither"),
                ("2: right is better", "right"),
            )
        ]
    gr.Button("Play both", elem_id="rate-play").click(None, js=PLAY % ("rate-left-video", "rate-right-video"))
    table = gr.Markdown(elem_id="strengths")
    ratings = gr.Button("Make ratings.csv", elem_id="rate-export")
    file = gr.File(label="For seedbed calibrate --ratings", elem_id="ratings-file", interactive=False)

    def following() -> tuple[Any, ...]:
        takes = finished(jobs.all())
        found = comparisons.pair(takes, draw)
        if found is None:
            return None, "Finish two candidates of one prompt first.", None, None, _strengths(comparisons)
        paths = [str(takes[found.shared][noise]) for noise in (found.left, found.right)]
        words = plain(json.loads(found.shared)["prompt"])
        return (*found,), f"Which is better: {words}?", *paths, _strengths(comparisons)

    def say(better: str, shown: Any) -> tuple[Any, ...]:
        with one_by_one:
            if shown is not None:
                comparisons.add(Pair(*shown), better)
        return following()

    outputs = [pair, prompt, *videos, table]
    tab.select(saying(following, len(outputs)), None, [*outputs, problem], api_visibility="private")
    for button, better in buttons:
        button.click(
            saying(functools.partial(say, better), len(outputs)),
            pair,
            [*outputs, problem],
            api_visibility="private",
            show_progress="hidden",
        )
    ratings.click(
        saying(lambda: (str(comparisons.export(jobs.folder / "ratings.csv")),), 1),
        None,
        [file, problem],
        api_visibility="private",
    )


def _strengths(comparisons: Comparisons) -> str:
    """The table of strengths, by prompt and best first."""
    rows = sorted(comparisons.table(), key=lambda row: (row["shared"], -row["rating"]))
    if not rows:
        return ""
    lines = ["| prompt | seed | candidate | strength | 95 % | comparisons |", "|---|---|---|---|---|---|"]
    for row in rows:
        words = plain(row["prompt"])
        between = "–" if row["low"] != row["low"] else f"{row['low']:.2f} to {row['high']:.2f}"
        numbers = (
            f"{row['seed']} | {row['candidate']} | {row['rating']:.2f} | {between} | {row['comparisons']}"
        )
        lines.append(f"| {words} | {numbers} |")
    return "\n".join(lines)
