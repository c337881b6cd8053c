"""The page itself: what the files of the jobs say, shown once a second, and clicks written into them.

Everything that is shown is read from the folder, so every tab shows the same, however late it is opened.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr

from seedbed.errors import BadInput, SeedbedError, shown
from seedbed.noise import prior_named
from seedbed.pipelines.call import settings_beside
from seedbed.pipelines.loading import locate
from seedbed.ui.jobs import DONE, Job, Jobs, Request, ending
from seedbed.ui.judging import compare, plain, rate, saying
from seedbed.ui.worker import Worker

FINISH, DROP = "Finish it", "Drop it"
# The numbers that may be typed: label, argument of `Request`, kind, argument of the pipeline's call.
_NUMBERS: tuple[tuple[str, str, Callable[[str], Any], str], ...] = (
    ("Candidates", "candidates", int, ""),
    ("Seed", "seed", int, ""),
    ("Steps", "steps", int, "num_inference_steps"),
    ("Guidance", "guidance", float, "guidance_scale"),
    ("Frames", "frames", int, "num_frames"),
    ("Height", "height", int, "height"),
    ("Width", "width", int, "width"),
)
CSS = """
#sheet .grid-container { grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)) !important; }
#sheet .caption-label { white-space: normal; max-width: 100%; }
#strengths { overflow-x: auto; }
#strengths * { word-break: normal; overflow-wrap: normal; }
#problem { color: var(--error-text-color, #b00020); min-height: 1.5em; }
:focus-visible { outline: 3px solid var(--color-accent) !important; }
"""


Now = tuple[str, str, int, float, float] | None


def page(jobs: Jobs, worker: Worker, models: list[str], verifiers: list[str]) -> Any:
    """The page as Gradio's Blocks, not launched yet.

    Args:
        models: what a job may name, the first by default; verifiers: the same.
    """
    with gr.Blocks(title="seedbed", delete_cache=(3600, 86400), analytics_enabled=False) as blocks:
        gr.Markdown("# seedbed\nChoose the initial noise of a video by eye.", elem_id="title")
        problem = gr.Markdown(elem_id="problem")
        ticks = gr.Timer(1)
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Make", elem_id="make"):
                _make(jobs, worker, models, verifiers, problem, ticks, blocks)
            with gr.Tab("Compare", elem_id="compare") as comparing:
                compare(jobs, comparing)
            with gr.Tab("Rate", elem_id="rate") as rating:
                rate(jobs, problem, rating)
    return blocks


def _make(
    jobs: Jobs,
    worker: Worker,
    models: list[str],
    verifiers: list[str],
    problem: Any,
    ticks: Any,
    blocks: Any,
) -> None:
    """Ask, watch, choose, play, download, replay; the history is the choice of the job that is shown."""
    name, picked, seen = gr.State(""), gr.State(-1), gr.State({})
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            prompt = gr.Textbox(label="Prompt", elem_id="prompt", lines=2)
            model = gr.Dropdown(models, value=models[0], label="Model", elem_id="model")
            with gr.Row():  # an empty gr.Number would be a 0
                texts = [
                    gr.Textbox(
                        {"candidates": "6", "seed": "0"}.get(name, ""),
                        label=label,
                        placeholder=usual,
                        elem_id=name,
                        min_width=110,
                    )
                    for (label, name, *_), usual in zip(_NUMBERS, _usual(models[0]), strict=True)
                ]
            with gr.Accordion("More", open=False, elem_id="more"):
                negative = gr.Textbox(label="Negative prompt", elem_id="negative")
                prior = gr.Textbox(label="Prior, as mixed:1", placeholder="the model's", elem_id="prior")
                verifier = gr.Dropdown(
                    ["none", *verifiers], value="none", label="Verifier", elem_id="verifier"
                )
            start = gr.Button("Show candidates", variant="primary", elem_id="start")
            history = gr.Radio([], label="History", elem_id="history")
        with gr.Column(scale=2, min_width=280):
            status = gr.Markdown(elem_id="status")
            sheet = gr.Gallery(
                label="Candidates", elem_id="sheet", allow_preview=False, object_fit="contain", height="auto"
            )
            with gr.Row():
                action = gr.Radio(
                    [FINISH, DROP], value=FINISH, label="A click on a candidate", elem_id="action"
                )
                best_first = gr.Checkbox(label="Best score first", elem_id="best-first")
            with gr.Row():
                cancel = gr.Button("Cancel", elem_id="cancel", min_width=90)
                resume = gr.Button("Take up again", elem_id="resume", min_width=90)
            with gr.Row():
                how: dict[str, Any] = dict(autoplay=True, loop=True, interactive=False, min_width=280)
                video = gr.Video(label="Video", elem_id="video", **how)
                edited = gr.Video(label="Edit", elem_id="edited", visible=False, **how)
            with gr.Row():
                mp4 = gr.DownloadButton(
                    "Download video", elem_id="download-video", interactive=False, min_width=120
                )
                record = gr.DownloadButton(
                    "Download record", elem_id="download-record", interactive=False, min_width=120
                )
                again = gr.Button("Replay", elem_id="replay", interactive=False, min_width=120)
            replayed = gr.Markdown(elem_id="replayed")
            with gr.Accordion("From this video", open=False, elem_id="from-this"):
                with gr.Row():
                    strength = gr.Textbox(
                        "0.3", label="Strength of variations, from 0 to 1", elem_id="strength", min_width=140
                    )
                    vary = gr.Button("Show variations", elem_id="vary", min_width=140)
                with gr.Row():
                    target = gr.Textbox(label="What an edit shall show", elem_id="target", min_width=140)
                    change_it = gr.Button("Edit it", elem_id="edit", min_width=140)
                with gr.Row():
                    word = gr.Textbox(label="Word of the prompt", elem_id="word", min_width=140)
                    look_at = gr.Button("Show where it looks", elem_id="look", min_width=140)
                told = gr.Markdown(elem_id="told")
                shown_map = gr.Image(label="Map", elem_id="map", visible=False, interactive=False)
                map_page = gr.DownloadButton(
                    "Download map by layer, step and head", elem_id="download-map", visible=False
                )

    def ask(*given: Any) -> tuple[str, int]:
        text, model, negative, prior, verifier, *numbers = given
        prior = (prior or "").strip() or None
        if prior is not None:
            prior_named(prior)
        if model not in models or verifier not in ("none", *verifiers):  # not from this page
            raise BadInput("that model or verifier was not offered: start seedbed ui with it")
        typed = {
            name: _number(name, number, kind)
            for (_, name, kind, _), number in zip(_NUMBERS, numbers, strict=True)
        }
        job = jobs.add(
            Request(
                prompt=(text or "").strip(),
                model=model,
                negative_prompt=(negative or "").strip() or None,
                prior=prior,
                verifier=None if verifier == "none" else verifier,
                **typed,
            )
        )
        return job.name, -1

    def click(name: str, seen: dict[str, Any], action: str, event: gr.SelectData) -> tuple[Any]:
        order = seen["order"]
        if event.index >= len(order):
            return (gr.skip(),)
        candidate = order[event.index]
        if not jobs.get(name).has("finish", candidate):
            if action == DROP:
                jobs.drop(name, candidate)
                return (gr.skip(),)
            jobs.finish(name, candidate)
        return (candidate,)

    def clicked(name: str, seen: dict[str, Any], action: str, event: gr.SelectData) -> Any:
        # Gradio finds the event by its annotation, which a wrapped function would hide.
        return saying(click, 1)(name, seen, action, event)

    def variations(name: str, picked: int, strength: str, candidates: str) -> tuple[str, int]:
        near, count = _number("strength", strength, float), _number("candidates", candidates, int)
        return jobs.vary(name, picked, near, count).name, -1

    def change(what: Callable[..., Job], *given: Any) -> tuple[()]:
        what(*given)
        return ()

    def newest() -> tuple[str, int]:
        return next(((job.name, job.watched) for job in reversed(jobs.all())), ("", -1))

    def tick(name: str, picked: int, best_first: bool, seen: dict[str, Any]) -> list[Any]:
        every = jobs.all()
        job = next((each for each in every if each.name == name), None)
        order = _order(job, best_first) if job else []
        now = worker.now
        views = [_caption(job, each, now) for each in order] if job else []
        files = [job.file(each, ".gif") for each in order] if job else []
        done = job is not None and picked >= 0 and job.has("finish", picked)
        film = str(job.file(picked, ".mp4")) if job and done else None
        again_at = job.file(picked, DONE["replay"]) if job and done else Path()
        edit, edit_said = _made(job, picked, "edit", ".mp4", now) if job and done else (None, "")
        mapped, map_said = _made(job, picked, "map", ".png", now) if job and done else (None, "")
        said = "\n\n".join(filter(None, (edit_said, map_said)))
        labels = [(_label(each, now), each.name) for each in reversed(every)]
        fresh: dict[str, tuple[Any, Callable[[], Any]]] = {
            "history": ((labels, name), lambda: gr.Radio(choices=labels, value=name or None)),
            "status": (_status(job, every, worker), lambda: _status(job, every, worker)),
            "sheet": (
                [(*each, path.stat().st_mtime_ns) for each, path in zip(enumerate(views), files, strict=True)]
                + [name],
                lambda: gr.Gallery(
                    value=[(str(path), text) for path, text in zip(files, views, strict=True)],
                    selected_index=None,
                ),
            ),
            "video": (film, lambda: film),
            "mp4": (film, lambda: gr.DownloadButton(value=film, interactive=done)),
            "record": (
                film,
                lambda: gr.DownloadButton(
                    value=str(job.file(picked, ".json")) if job and done else None, interactive=done
                ),
            ),
            "again": (film, lambda: gr.Button(interactive=done)),
            "replayed": (_verdict(again_at), lambda: _verdict(again_at)),
            "edited": (edit, lambda: gr.Video(value=edit, visible=edit is not None)),
            "told": (said, lambda: said),
            "map": (mapped, lambda: gr.Image(value=mapped, visible=mapped is not None)),
            "map_page": (
                mapped,
                lambda: gr.DownloadButton(
                    value=mapped and str(Path(mapped).with_suffix(".html")), visible=mapped is not None
                ),
            ),
        }
        signs = {"order": order, **{key: repr(sign) for key, (sign, _) in fresh.items()}}
        updates = [
            update() if seen.get(key) != signs[key] else gr.skip() for key, (_, update) in fresh.items()
        ]
        return [*updates, signs if signs != seen else gr.skip()]

    asked = [prompt, model, negative, prior, verifier, *texts]
    shown = [history, status, sheet, video, mp4, record, again, replayed]
    shown += [edited, told, shown_map, map_page, seen]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    look: dict[str, Any] = {"fn": tick, "inputs": [name, picked, best_first, seen], "outputs": shown, **quiet}
    gr.on([start.click, prompt.submit], saying(ask, 2), asked, [name, picked, problem], **quiet).then(**look)
    sheet.select(clicked, [name, seen, action], [picked, problem], **quiet).then(**look)
    opened = saying(lambda chosen: (chosen, jobs.get(chosen).watched), 2)
    history.input(opened, history, [name, picked, problem], **quiet).then(**look)
    best_first.input(**look)
    for button, what in ((cancel, jobs.cancel), (resume, jobs.resume)):
        button.click(saying(functools.partial(change, what), 0), [name], [problem], **quiet)
    again.click(saying(functools.partial(change, jobs.replay), 0), [name, picked], [problem], **quiet)
    vary.click(
        saying(variations, 2), [name, picked, strength, texts[0]], [name, picked, problem], **quiet
    ).then(**look)
    for kind, text, button in (("edit", target, change_it), ("map", word, look_at)):

        def derive(name: str, picked: int, text: str, kind: Any = kind) -> tuple[()]:
            jobs.derive(name, picked, kind, text or "")
            return ()

        gr.on([button.click, text.submit], saying(derive, 0), [name, picked, text], [problem], **quiet)
    model.change(
        lambda model: [gr.Textbox(placeholder=usual) for usual in _usual(model)],
        model,
        texts,
        **quiet,
    )
    blocks.load(newest, None, [name, picked], **quiet).then(**look)
    ticks.tick(**look)


def _usual(model: str) -> list[str]:
    """What each field of a number shows while it is empty: the model's own, from the file beside it."""
    call: dict[str, Any] = {}
    with suppress(SeedbedError):  # which a job says that loads it
        call = settings_beside(locate(model)).get("call", {})
    return [
        f"{call[argument]:g}"
        if isinstance(call.get(argument), (int, float))
        else "the model's" * bool(argument)
        for *_, argument in _NUMBERS
    ]


def _made(job: Job, candidate: int, kind: str, suffix: str, now: Now) -> tuple[str | None, str]:
    """The file of the map or edit that was asked for last, if it is there, and what there is to say of it."""
    what = job.latest(kind, candidate)
    if not what:
        return None, ""
    words = plain(what.replace(":", ": ", 1))
    if not job.has(what, candidate):
        return None, f"{words}: {'runs' if now and now[:3] == (job.name, what, candidate) else 'waits'}"
    if error := job.read(what, candidate).get("error"):
        return None, f"{words}: error: {plain(error)}"
    return str(job.file(candidate, ending(what)).with_suffix(suffix)), words


def _number(name: str, text: str, convert: Callable[[str], Any]) -> Any:
    """What was typed, None for nothing."""
    try:
        return convert(text) if text and text.strip() else None
    except ValueError:
        raise BadInput(f"{name} must be a number, not {shown(text)}") from None


def _order(job: Job, best_first: bool) -> list[int]:
    """The candidates that there is something to see of, but the dropped ones."""
    found = [
        each
        for each in range(job.request.candidates)
        if job.file(each, ".gif").is_file() and (each not in job.drop or job.has("finish", each))
    ]
    scores = {each: job.score(each) for each in found} if best_first else {}
    return sorted(found, key=lambda each: -(scores.get(each) or 0) if scores.get(each) is not None else 1e9)


def _caption(job: Job, candidate: int, now: Now) -> str:
    parts = [f"{candidate}"]
    score = job.score(candidate)
    if score is not None:
        parts.append(f"score {score:.3g}")
    if now and now[0] == job.name and now[2] == candidate and now[4]:
        parts.append(f"{now[3]:g}/{now[4]:g}")
    elif job.has("finish", candidate):
        parts.append("finished")
    elif ("finish", candidate) in job.left():
        parts.append("waits to be finished")
    return " · ".join(parts)


def _label(job: Job, now: Now) -> str:
    """A job in the history."""
    finished = sum(job.has("finish", each) for each in range(job.request.candidates))
    if job.error:
        state = "failed"
    elif now and now[0] == job.name:
        state = "runs"
    else:
        state = "waits" if next(job.left(), None) else f"{finished} finished"
    text = " ".join(job.request.prompt.split())
    text = f"{text:.60}" + (" · variations" if job.request.noise else "")
    return f"{job.name[4:6]}-{job.name[6:8]} {job.name[9:11]}:{job.name[11:13]} · {text} · {state}"


def _status(job: Job | None, every: list[Job], worker: Worker) -> str:
    """One line: what runs, what waits, what failed."""
    if worker.broken:
        return f"error: the worker has ended ({plain(worker.broken)}): start seedbed ui again"
    if job is None:
        return "Say what to generate."
    if job.error:
        return f"error: {plain(job.error)}"
    parts, now = [], worker.now
    if now is not None:
        whose = "" if now[0] == job.name else " of another job"
        steps = f", {now[3]:g} of {now[4]:g} steps" if now[4] else ", starting"
        parts.append(f"{plain(now[1])} of candidate {now[2]}{whose}{steps}")
    waiting = sum(next(each.left(), None) is not None for each in every if not now or each.name != now[0])
    parts += [f"{waiting} jobs wait"] * (waiting > 0)
    if next(job.left(), None) is None:
        parts.insert(0, "ready: click a candidate to finish it")
    hidden = sum(not job.has("finish", each) for each in job.drop)
    return "; ".join([*parts, *[f"{hidden} dropped"] * (hidden > 0)])


def _verdict(path: Path) -> str:
    if not path.is_file():
        return ""
    content = json.loads(path.read_text())
    if content["identical"]:
        return "replayed: identical frames"
    return "replayed: other frames" + "".join(f"; {plain(change)}" for change in content["changes"])
