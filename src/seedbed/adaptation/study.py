"""What a model's attention looks like, and what becomes of its videos where a layer of it is replaced.

After arXiv 2504.12027: entropy and energy layer by layer, and one layer at a time replaced by the identity
and by uniform attention. Formulas: docs/attention.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from seedbed.acquisition.base import BatchSize, rows_that_fit
from seedbed.acquisition.signals import call_of_rows
from seedbed.adaptation.findings import COLUMNS, Picture, Study
from seedbed.adaptation.layout import Layout, layers_named, layout_of, steps_looked_at
from seedbed.adaptation.parts import ALL, head_statistics, map_of
from seedbed.attention import AttentionCall, energy
from seedbed.attention.interventions import WHOLE, Change, identity, uniform
from seedbed.errors import (
    BadInput,
    NotSupported,
    SeedbedError,
    finite,
    one_of,
    several,
    shortened,
    shown,
    whole,
)
from seedbed.pipelines.interception import Run
from seedbed.pipelines.layers import LayerInfo
from seedbed.pipelines.loading import recorded_name
from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Act, Session
from seedbed.pipelines.steps import Position
from seedbed.progress import Progress, reporting
from seedbed.refinement import correlate_steps
from seedbed.verifiers import Frames, Verifier, judged, judged_text
from seedbed.verifiers import resolve as verifier_named
from seedbed.verifiers.appearance import look, structural_similarity

Perturb = Literal["identity", "uniform"]
CHANGES: dict[str, Change] = {"identity": identity, "uniform": uniform}


# Steps that are looked at where none are named, spread over the schedule.
_STEPS = 4
# Of each end of the entropies, so many layers are shown with frames and maps.
_SHOWN = 2


def study(
    pipe: Any,
    prompts: str | Sequence[str],
    *,
    seed: int = 0,
    steps: Sequence[int] | None = None,
    layers: str | Sequence[str] = "all",
    perturb: Sequence[Perturb] | None = ("identity", "uniform"),
    window: tuple[float, float] = (0.0, 1.0),
    verifier: Verifier | str | None = None,
    rows: int | None = 256,
    batch_size: BatchSize = "auto",
    progress: Progress = True,
    call: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Study:
    """Looks at a model's attention, and at what each layer is for by replacing it.

    Of each prompt one video is made as usual, and for every layer and perturbation another from the same
    noise, with this layer's attention replaced. Entropies and energies are those of the rows with the prompt.

    Args:
        pipe: any diffusers pipeline; as before afterwards.
        prompts: one or several; the noise of number i is the first of seed + i.
        steps: numbers of denoising steps that are looked at, from 0; four, spread over the schedule.
        layers: "all", or kinds and globs on names, as acquisition functions take them; those in which text
            attends to itself alone are left out.
        perturb: what replaces a layer's map, see `seedbed.attention.interventions`. Cross attention has no
            identity. None: nothing is perturbed.
        window: where in the schedule layers are replaced, as shares of the steps, the end not included.
        verifier: its numbers are effects too, see `seedbed.verifiers.resolve`.
        rows: of a layer that are looked at, of text and of video each; None for all.
        batch_size: perturbed videos that are denoised together, each with another layer replaced.
        call, arguments: of the pipeline's own call.

    Raises:
        BadInput: no prompt, or an argument out of its range; a layer that the model does not have.
        NotSupported: rows of the prompt that cannot be told, or attention that cannot be seen.
    """
    texts = [prompts] if isinstance(prompts, str) else several("study's prompts", prompts)
    if not all(isinstance(text, str) for text in texts):
        raise BadInput(f"study needs prompts, one text or several, not {shown(prompts)}")
    if len(set(texts)) < len(texts):
        raise BadInput(f"the prompt {shown(max(texts, key=texts.count))} is given twice: leave one out")
    seed, rows = whole("seed", seed, 0), whole("rows", rows, optional=True)
    if batch_size != "auto":
        batch_size = whole("batch_size", batch_size)
    perturb = [] if perturb is None else several("study's perturb", perturb, least=0)
    for each in perturb:
        one_of("study's perturb", each, get_args(Perturb))
    start, stop = (finite("study's window", edge, 0, 1) for edge in several("study's window", window, 2))
    if start >= stop:
        raise BadInput(f"study's window is empty: {start:g} is not below {stop:g}")
    judge = None if verifier is None else verifier_named(verifier)
    asked = {**(call or {}), **arguments}
    first = Session(pipe, texts[0], **asked)
    sessions = [first, *(first.another(text, asked) for text in texts[1:])]
    judged_by = [judged_text(judge, session) if judge is not None else "" for session in sessions]
    total = first.facts.steps
    looked = steps_looked_at("study's steps", steps, _STEPS, total)
    names = layers_named(first, "*" if layers == "all" else layers)
    text = layout_of(first).text
    names = [name for name in names if name not in text]
    if not names:
        raise BadInput(f"no video takes part in {shown(layers)}: name other layers")
    infos = {each.name: each for each in first.layers if each.name in set(names)}
    began, done = perf_counter(), 0
    each_of = [(name, kind) for kind in dict.fromkeys(perturb) for name in names]
    variants = [(n, p) for n, p in each_of if not (p == "identity" and infos[n].kind == "cross")]
    run = _Running(infos, looked, variants, (start, stop), judge, rows, batch_size)
    with reporting(progress) as show:

        def tick(count: int) -> None:
            nonlocal done
            done += count
            show("study", done, len(texts) * (1 + len(variants)) * total)

        for number, session in enumerate(sessions):
            run.prompt(session, seed + number, judged_by[number], tick)
    model = recorded_name(str(getattr(pipe, "name_or_path", None) or ""))
    asked_for = model, tuple(texts), seed, looked, (start, stop), tuple(infos.values())
    spent, seconds = dict(first.ledger.entries), perf_counter() - began
    return Study(*asked_for, run.columns, spent, seconds, run.plain, tuple(run.pictures.values()))


@dataclass
class _Running:
    """The prompts of a study, one after another."""

    layers: Mapping[str, LayerInfo]
    steps: Sequence[int]
    variants: Sequence[tuple[str, str]]
    window: tuple[float, float]
    judge: Verifier | None
    rows: int | None
    batch_size: BatchSize
    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in COLUMNS})
    plain: Frames | None = None
    pictures: dict[str, Picture] = field(default_factory=dict)

    def put(self, prompt: Any, layer: str, measure: str, value: float, part: str = ALL, **at: Any) -> None:
        keys = {"prompt": prompt, "layer": layer, "kind": self.layers[layer].kind, "part": part}
        row = {"step": None, "head": None, "perturb": None, **keys, **at, "measure": measure, "value": value}
        for name in COLUMNS:
            self.columns[name].append(row[name])

    def prompt(self, session: Session, seed: int, text: str, tick: Callable[[int], None]) -> None:
        """Looks at one prompt: the attention, and the effects of every variant."""
        layout, first = layout_of(session), self.plain is None
        recipe = session.recipe(seed)
        noise = recipe.draw()[None]
        correlate_steps(session, recipe, noise[0])
        seen = _Seen(layout, self.layers, self.steps, self.rows, first)
        (plain,) = Rollout(session, noise, what="study", progress=tick).advance(
            session.facts.steps, handler=seen.look
        )
        for layer, measure, value, at in seen.found():
            self.put(session.prompt, layer, measure, value, **at)
        if first:
            ranked = sorted(self.layers, key=seen.entropy)
            shown = {*ranked[:_SHOWN], *ranked[-_SHOWN:]}
            self.plain = plain
            self.pictures = {name: Picture(name, *seen.maps[name]) for name in self.layers if name in shown}
        before = self._look(plain, text)
        size = rows_that_fit(self.batch_size, noise) if session.facts.shares else 1
        for begin in range(0, len(self.variants), size):
            group = self.variants[begin : begin + size]
            session.acts = [_replacing(group, layout, *self.window)]
            noises = noise.expand(len(group), *noise.shape[1:])
            rollout = Rollout(session, noises, batch_size=len(group), what="perturbed", progress=tick)
            try:
                videos = rollout.finish()
            except (SeedbedError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                if len(group) == 1:
                    raise
                # The autoencoder of HunyuanVideo15Pipeline decodes one video at a time.
                why = shortened(error)
                raise NotSupported(
                    f"{session.asked.name} does not make {len(group)} videos at once ({why}): pass "
                    "batch_size=1"
                ) from error
            for (layer, change), video in zip(group, videos, strict=True):
                now = self._look(video, text)
                effects = {key: now[key] - before[key] for key in before}
                for measure, value in {"ssim": structural_similarity(plain, video), **effects}.items():
                    self.put(session.prompt, layer, measure, value, perturb=change)
                if first and layer in self.pictures:
                    self.pictures[layer].frames[change] = video
        session.acts = []

    def _look(self, video: Frames, text: str) -> dict[str, float]:
        numbers = {key: values[0] for key, values in look([video]).items()}
        if len(video) == 1:  # of an image, whose movement is no number
            numbers = {"sharpness": numbers["sharpness"]}
        verdict = {} if self.judge is None else judged(self.judge, [video], text)
        return {**numbers, **{f"verifier.{key}": float(values[0]) for key, values in verdict.items()}}


@dataclass
class _Seen:
    """What one rollout shows of attention.

    Attributes:
        heads: (layer, step, part, measure) -> (heads,) for each call of the layer in this step.
        maps: of the step in the middle.
    """

    layout: Layout
    layers: Mapping[str, LayerInfo]
    steps: Sequence[int]
    rows: int | None
    pictures: bool
    heads: dict[tuple[str, int, str, str], list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    maps: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def look(self, call: AttentionCall, candidates: list[int], rows: list[int]) -> Tensor | None:
        """A `StepHandler`; answers with the model's own output, of which it takes the energy."""
        if call.step not in self.steps or call.layer not in self.layers:
            return None
        output = call.output()
        own = call_of_rows(call, rows)
        video, _ = self.layout.of(own) or (WHOLE, None)
        parts = head_statistics(own, video, self.rows)
        outputs = output.unflatten(0, (call.candidates, -1))[rows].flatten(0, 1)
        parts[ALL]["energy"] = energy(outputs).double().sum((0, 2)).cpu()
        for part, measures in parts.items():
            for measure, values in measures.items():
                self.heads[call.layer, call.step, part, measure].append(values)
        if self.pictures and call.step == self.steps[len(self.steps) // 2]:
            self.maps[call.layer] = map_of(own)
        return output

    def entropy(self, layer: str) -> float:
        """A layer's mean normalised entropy."""
        own = [self.heads.get((layer, step, ALL, "normalised_entropy"), []) for step in self.steps]
        return float(torch.cat([values for some in own for values in some]).mean())

    def found(self) -> Iterator[tuple[str, str, float, dict[str, Any]]]:
        """(layer, measure, value, other keys) of every number, the proportions last."""
        totals = defaultdict[tuple[int, str], dict[str, float]](dict)
        for (layer, step, part, measure), values in self.heads.items():
            means = torch.stack(values).mean(0)
            for head, value in enumerate(means.tolist()):
                yield layer, measure, value, {"step": step, "head": head, "part": part}
            if part == ALL and measure in ("normalised_entropy", "energy"):
                totals[step, measure][layer] = float(means.sum() if measure == "energy" else means.mean())
        for (step, measure), of in totals.items():
            name, every = f"{measure.split('_')[-1]}_proportion", sum(of.values())
            for layer, value in of.items():
                yield layer, name, value / every if every else 0.0, {"step": step}


def _replacing(variants: Sequence[tuple[str, str]], layout: Layout, start: float, stop: float) -> Act:
    """An act by which candidate number i has the attention of one layer replaced, as variant i says."""

    def act(run: Run, count: int, guided: bool) -> None:
        position = Position(run.pipe, run.undo)

        def answer(call: AttentionCall) -> Tensor | None:
            wanted = [(i, change) for i, (layer, change) in enumerate(variants) if layer == call.layer]
            if not wanted or not start <= position.share < stop:
                return None
            if count == 1:  # also where the model splits its batch
                return layout.changed(call, CHANGES[wanted[0][1]])
            call.by_candidate(call.query[:, :1, :1, :1])  # refuses a model that splits its batch
            output = call.output()
            by_row = output.unflatten(0, (call.candidates, -1))
            for candidate, change in wanted:
                # Pipelines stack what guidance needs as whole batches of candidates.
                rows = list(range(candidate, call.candidates, count))
                if (own := layout.changed(call_of_rows(call, rows), CHANGES[change])) is not None:
                    by_row[rows] = own.unflatten(0, (len(rows), -1))
            return output

        run.see_attention(answer)

    return act
