"""`seedbed select --preview` and `seedbed replay --pick`: previews for a person, and going on with one."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from seedbed.cli.outputs import write_together
from seedbed.cli.tables import print_ranking, print_summary
from seedbed.errors import BadInput

if TYPE_CHECKING:
    from seedbed.selection.profile import Profile


def write_sheet(
    path: Path,
    load: Callable[[], Any],
    prompt: str,
    verifier: str | None,
    call: dict[str, Any],
    as_json: bool,
) -> None:
    """Denoise the candidates a few steps and write the contact sheet, its record and what was computed.

    Args:
        path: of the record; the page (.html) and the memory (.safetensors) lie beside it.
        call: arguments of `seedbed.previews`.
    """
    if not prompt.strip():
        raise BadInput("the prompt is empty: say what to generate")
    from seedbed.verifiers import resolve

    judge = None if verifier is None else resolve(verifier)
    page, memory = path.with_suffix(".html"), path.with_suffix(".safetensors")
    pipe = load()
    from seedbed.report.page import amount
    from seedbed.selection import previews

    sheet = previews(pipe, prompt, verifier=judge, **call)
    command = f"seedbed replay {shlex.quote(path.name)} --pick"
    write_together(
        {path: sheet.save_record, memory: sheet.save_memory, page: lambda at: sheet.page(at, command=command)}
    )
    record, files = sheet.record(), {"previews": str(page), "record": str(path), "memory": str(memory)}
    if as_json:
        print(json.dumps({"files": files, "record": record}))
        return
    console = Console(highlight=False)
    if judge is not None:
        print_ranking(console, record)
    spent, seconds = sum(record["ledger"].values()), sum(record["seconds"].values())
    lines = [
        f"{len(record['recipes'])} previews after {sheet.steps} of {sheet.all} steps: look at {page}",
        f"{amount(spent)} NFE in {seconds:.1f} s",
        *(f"{what:<8} {file}" for what, file in files.items()),
        f"go on with one: {command} N",
    ]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def followed(profile: "Profile | None", prompt: str) -> Any:
    """The verifier by which a profile previews, if it has one that can judge the prompt; else None."""
    if profile is None or profile.preview is None:
        return None
    from seedbed.verifiers import resolve
    from seedbed.worlds import shapes

    judge = resolve(profile.preview.verifier)

    try:
        shapes.parse(prompt)  # the one world whose verifier a profile can name
    except BadInput:
        return None
    return judge


def instead_of_scores(option: str, acquisition: str, race: str, *settings: Any) -> None:
    """Refuse options on how to score attention beside `option`, which does not."""
    if not acquisition == race == "auto" or any(setting is not None for setting in settings):
        raise BadInput(
            f"{option} chooses by previews and scores no attention: leave out --acquisition, --profile, "
            "--keep, --masks, --layers, --depth and --race"
        )


def write_picked(
    record: Path, candidate: int, pipe: Any, video: Path, rename: bool, as_json: bool, progress: bool
) -> None:
    """Generate from one candidate of a contact sheet; video, report and record, as `seedbed generate`.

    Args:
        rename: the video's name may change to .png for an image.
    """
    from seedbed.selection import pick

    result = pick(record, candidate, pipe, progress=progress)
    if rename and len(result.frames) == 1:
        video = video.with_suffix(".png")
    page, again = video.with_suffix(".html"), video.with_suffix(".json")
    command = f"seedbed replay {shlex.quote(video.name)}"
    write_together(
        {video: result.save, again: result.save, page: lambda at: result.report(at, replay=command)}
    )
    files = {"video": str(video), "report": str(page), "record": str(again)}
    if as_json:
        print(json.dumps({"files": files, "record": result.record()}))
    else:
        print_summary(Console(highlight=False), result.record(), files)
