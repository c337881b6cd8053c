"""What a study of attention has found: by layer, by half, correlated, and written to files."""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from seedbed.adaptation.parts import ALL, BLOCKS
from seedbed.errors import BadInput, BadRecord, NotSupported
from seedbed.files import read_text, write_bytes_atomically
from seedbed.pipelines.layers import LayerInfo
from seedbed.verifiers import Frames

COLUMNS = ("prompt", "layer", "kind", "part", "step", "head", "perturb", "measure", "value")
SCHEMA = "seedbed.study/1"


class Correlation(NamedTuple):
    """Spearman's rank correlation over layers of their entropy with an effect, the mean over prompts.

    Attributes:
        kind: of the layers, or "all" where a model has several that were perturbed.
        part: of the attention whose normalised entropy it is.
        layers: how many.
        mean, low, high: over prompts, with a 95 % bootstrap interval; nan where there is none.
    """

    kind: str
    part: str
    perturb: str
    effect: str
    layers: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Picture:
    """What the report shows of a layer, from the first prompt.

    Attributes:
        raw, kept: see `seedbed.adaptation.parts.map_of`.
        frames: by perturbation, uint8 (frames, height, width, 3); of few layers.
    """

    layer: str
    raw: Tensor
    kept: Tensor
    frames: dict[str, Frames] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """What `study` found.

    Attributes:
        model: where it was loaded from.
        prompts, seed, steps, window: as asked; `steps` by number, from 0.
        layers: those that were looked at, in the order in which they run.
        columns: a tidy table, one number a row: name to a list, see `COLUMNS`. None where a row has no such
            key: a head where it is of a whole layer, a step where it is an effect.
        ledger: evaluations by what they were for.
        seconds: that it took.
        plain: the first prompt's video, unperturbed; None of a study that was loaded.
        pictures: of the layers; none of a study that was loaded.
    """

    model: str
    prompts: tuple[str, ...]
    seed: int
    steps: tuple[int, ...]
    window: tuple[float, float]
    layers: tuple[LayerInfo, ...]
    columns: dict[str, list[Any]] = field(repr=False)
    ledger: dict[str, float]
    seconds: float
    plain: Frames | None = field(default=None, repr=False)
    pictures: tuple[Picture, ...] = field(default=(), repr=False)

    @functools.cached_property
    def means(self) -> dict[tuple[str, str, str], dict[tuple[str, str], float]]:
        """(measure, part, perturb) -> {(prompt, layer): mean over steps and heads}."""
        sums: dict[Any, dict[Any, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0]))
        names = ("measure", "part", "perturb", "prompt", "layer", "value")
        for measure, part, perturb, prompt, layer, value in zip(
            *(self.columns[name] for name in names), strict=True
        ):
            own = sums[measure, part, perturb or ""][prompt, layer]
            own[0] += value
            own[1] += 1
        return {key: {at: total / count for at, (total, count) in own.items()} for key, own in sums.items()}

    def by_layer(self, measure: str, part: str = ALL, perturb: str = "") -> dict[str, float]:
        """The mean over prompts (steps, heads) of a measure, for the layers that have it."""
        found: dict[str, list[float]] = defaultdict(list)
        for (_, layer), value in self.means.get((measure, part, perturb), {}).items():
            found[layer].append(value)
        return {each.name: float(np.mean(found[each.name])) for each in self.layers if each.name in found}

    @property
    def high_entropy(self) -> list[str]:
        """The half of the layers, without cross attention, with the more spread out rows."""
        return self._half(top=True)

    @property
    def low_entropy(self) -> list[str]:
        """The other half."""
        return self._half(top=False)

    def _half(self, top: bool) -> list[str]:
        half = self.halves
        own = [layer.name for layer in self.layers if layer.kind != "cross"] or list(half)
        return [name for name in own if half[name] == ("high" if top else "low")]

    @functools.cached_property
    def halves(self) -> dict[str, str]:
        """Layer -> "high" or "low": the half by its normalised entropy, of cross attention on its own."""
        entropy = self.by_layer("normalised_entropy")
        found: dict[str, str] = {}
        for cross in (False, True):
            names = [each.name for each in self.layers if (each.kind == "cross") == cross]
            ranked = sorted(names, key=lambda name: entropy[name], reverse=True)
            top = len(names) - len(names) // 2
            found |= {name: "high" if rank < top else "low" for rank, name in enumerate(ranked)}
        return found

    @property
    def effects(self) -> list[tuple[str, str]]:
        """(perturbation, effect), as `by_layer` takes them."""
        return [(perturb, measure) for measure, _, perturb in self.means if perturb]

    def correlations(self) -> list[Correlation]:
        """Of entropy over layers with each effect, for each kind of layer; needs scipy, `seedbed[lab]`."""
        require("scipy", "the correlation of ranks")
        from seedbed.statistics import bootstrap, within

        kinds = {layer.name: layer.kind for layer in self.layers}
        found = []
        for perturb, effect in self.effects:
            values = self.means[effect, ALL, perturb]
            perturbed = {layer for _, layer in values}
            groups = {
                kind: {n for n in perturbed if kinds[n] == kind} for kind in sorted(set(kinds.values()))
            }
            groups = {kind: names for kind, names in groups.items() if names}
            if len(groups) > 1:
                groups[ALL] = perturbed
            for (kind, names), part in itertools.product(groups.items(), (ALL, BLOCKS[-1])):
                entropy = self.means.get(("normalised_entropy", part, ""), {})
                at = [[(prompt, name) for name in sorted(names)] for prompt in self.prompts]
                if len(names) < 3 or any(each not in entropy for row in at for each in row):
                    continue
                pair = ([[table[each] for each in row] for row in at] for table in (entropy, values))
                interval = bootstrap(within(*pair))
                found.append(Correlation(kind, part, perturb, effect, len(names), *interval))
        return found

    def table(self) -> dict[str, list[Any]]:
        """The tidy table, with each layer's half beside it."""
        half = self.halves
        return {**self.columns, "half": [half[layer] for layer in self.columns["layer"]]}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the table: Parquet (.parquet, with `pip install "seedbed[lab]"`) or JSON (.json).

        Whole or not at all. JSON has what `load` reads, with the table by its columns under "columns".

        Raises BadInput for another ending, NotSupported where pyarrow is missing.
        """
        suffix = Path(path).suffix.lower()
        about = {
            "schema": SCHEMA,
            "model": self.model,
            "prompts": self.prompts,
            "seed": self.seed,
            "steps": self.steps,
            "window": self.window,
            "layers": [dataclasses.astuple(layer) for layer in self.layers],
            "ledger": self.ledger,
            "seconds": self.seconds,
        }
        if suffix == ".json":
            data = json.dumps({**about, "columns": self.table()}, allow_nan=False).encode()
        elif suffix == ".parquet":
            data = _parquet(self.table(), about)
        else:
            raise BadInput(f"cannot write {path}: the name must end in .parquet or .json")
        return write_bytes_atomically(path, data)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Study:
        """A study from its JSON, without frames and maps; BadRecord where it is none."""
        try:
            data = json.loads(read_text(path, "the study"))
            if data["schema"] != SCHEMA:
                raise ValueError
            layers = tuple(LayerInfo(*layer) for layer in data["layers"])
            columns = {name: data["columns"][name] for name in COLUMNS}
            steps, window = tuple(data["steps"]), (data["window"][0], data["window"][1])
            asked = data["model"], tuple(data["prompts"]), data["seed"], steps, window
            return cls(*asked, layers, columns, data["ledger"], data["seconds"])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise BadRecord(f"{path} is no study that seedbed has written as JSON") from error

    @classmethod
    def joined(cls, studies: Sequence[Study]) -> Study:
        """Studies of other prompts with the same model and layers as one; frames and maps of the first."""
        first = studies[0]
        for each in studies:
            if (each.model, each.layers, each.steps, each.window) != (
                *(first.model, first.layers, first.steps, first.window),
            ):
                raise BadInput("studies of another model, other layers, steps or window do not add up")
        ledger: dict[str, float] = defaultdict(float)
        for what, spent in itertools.chain.from_iterable(each.ledger.items() for each in studies):
            ledger[what] += spent
        return dataclasses.replace(
            first,
            prompts=tuple(prompt for each in studies for prompt in each.prompts),
            columns={name: [v for each in studies for v in each.columns[name]] for name in COLUMNS},
            ledger=dict(ledger),
            seconds=sum(each.seconds for each in studies),
        )

    def report(self, path: str | os.PathLike[str], fps: float = 8) -> Path:
        """Writes a page that needs no other file: profile, effects, correlations, frames and maps."""
        from seedbed.report.attention_page import study_page

        data = {**vars(self), "fps": fps, "correlations": self.correlations()}
        data |= {"layers": self._rows_of_layers(), "effects": [], "pictures": []}
        for perturb, effect in self.effects:
            found: dict[str, list[float]] = {"high": [], "low": []}
            for (_, layer), value in self.means[effect, ALL, perturb].items():
                found[self.halves[layer]].append(value)
            if all(found.values()):
                data["effects"].append({"perturb": perturb, "effect": effect, **found})
        entropy = self.by_layer("normalised_entropy")
        for each in self.pictures:
            maps = {"raw": each.raw.numpy(), "kept": each.kept.numpy(), "frames": each.frames}
            about = {"half": self.halves[each.layer], "entropy": entropy[each.layer]}
            data["pictures"].append({"layer": each.layer, **about, **maps})
        return write_bytes_atomically(path, study_page(data).encode())

    def _rows_of_layers(self) -> list[dict[str, Any]]:
        """For each layer what the report says of it."""
        heads: dict[tuple[str, int], list[float]] = defaultdict(list)
        names = ("measure", "part", "layer", "head", "value")
        for measure, part, layer, head, value in zip(*(self.columns[name] for name in names), strict=True):
            if measure == "normalised_entropy" and part == ALL:
                heads[layer, head].append(value)
        measures = ("normalised_entropy", "energy", "entropy_proportion", "energy_proportion")
        means = {measure: self.by_layer(measure) for measure in measures}
        blocks = {
            block: [self.by_layer(m, block) for m in ("normalised_entropy", "mass")] for block in BLOCKS
        }
        return [
            {
                "name": layer.name,
                "kind": layer.kind,
                "half": self.halves[layer.name],
                "entropy": means["normalised_entropy"][layer.name],
                "heads": [float(np.mean(v)) for (name, _), v in heads.items() if name == layer.name],
                **{measure: means[measure][layer.name] for measure in measures[1:]},
                "blocks": {
                    block: tuple(each[layer.name] for each in pair)
                    for block, pair in blocks.items()
                    if layer.name in pair[0]
                },
            }
            for layer in self.layers
        ]


def require(package: str, what: str) -> None:
    """NotSupported where a package of the lab is missing, which `what` needs."""
    if find_spec(package) is None:
        raise NotSupported(f'{what} needs {package}: pip install "seedbed[lab]"')


def _parquet(table: Mapping[str, list[Any]], about: Mapping[str, Any]) -> bytes:
    require("pyarrow", "a table in Parquet")
    import pyarrow
    from pyarrow import parquet

    arrow = pyarrow.table(dict(table)).replace_schema_metadata({"seedbed": json.dumps(about)})
    buffer = io.BytesIO()
    parquet.write_table(arrow, buffer)
    return buffer.getvalue()
