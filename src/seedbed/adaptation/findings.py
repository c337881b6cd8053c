"""What a study of attention has found: by layer, by half, correlated, and written to files."""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from seedbed.adaptation.layout import broader_half
from seedbed.adaptation.parts import ALL, BLOCKS
from seedbed.errors import BadInput, BadRecord, NotSupported
from seedbed.files import read_text, write_bytes_atomically
from seedbed.pipelines.layers import LayerInfo
from seedbed.verifiers import Frames

COLUMNS = ("prompt", "layer", "kind", "part", "step", "head", "perturb", "measure", "value")
SCHEMA = "seedbed.study/1"
_ABOUT = ("model", "prompts", "seed", "steps", "window", "ledger", "seconds")


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

    def _rows(self, *names: str) -> Iterator[tuple[Any, ...]]:
        return zip(*(self.columns[name] for name in names), strict=True)

    @functools.cached_property
    def means(self) -> dict[tuple[str, str, str], dict[tuple[str, str], float]]:
        """(measure, part, perturb) -> {(prompt, layer): mean over steps and heads}."""
        found: dict[Any, dict[Any, list[float]]] = defaultdict(lambda: defaultdict(list))
        for *key, prompt, layer, value in self._rows(
            "measure", "part", "perturb", "prompt", "layer", "value"
        ):
            found[key[0], key[1], key[2] or ""][prompt, layer].append(value)
        return {key: {at: sum(v) / len(v) for at, v in own.items()} for key, own in found.items()}

    def by_layer(self, measure: str, part: str = ALL, perturb: str = "") -> dict[str, float]:
        """The mean over prompts (steps, heads) of a measure, for the layers that have it."""
        found: dict[str, list[float]] = defaultdict(list)
        for (_, layer), value in self.means.get((measure, part, perturb), {}).items():
            found[layer].append(value)
        return {each.name: float(np.mean(found[each.name])) for each in self.layers if each.name in found}

    @property
    def high_entropy(self) -> list[str]:
        """The half of the layers, without cross attention, with the more spread out rows."""
        return self._half("high")

    @property
    def low_entropy(self) -> list[str]:
        """The other half."""
        return self._half("low")

    def _half(self, half: str) -> list[str]:
        own = [layer.name for layer in self.layers if layer.kind != "cross"] or list(self.halves)
        return [name for name in own if self.halves[name] == half]

    @functools.cached_property
    def halves(self) -> dict[str, str]:
        """Layer -> "high" or "low": the half by its normalised entropy, of cross attention on its own."""
        entropy, found = self.by_layer("normalised_entropy"), dict[str, str]()
        for cross in (False, True):
            own = [each.name for each in self.layers if (each.kind == "cross") == cross]
            top = broader_half({name: entropy[name] for name in own})
            found |= {name: "high" if name in top else "low" for name in own}
        return found

    @property
    def effects(self) -> list[tuple[str, str]]:
        """(perturbation, effect), as `by_layer` takes them."""
        return [(perturb, measure) for measure, _, perturb in self.means if perturb]

    def correlations(self) -> list[Correlation]:
        """Of entropy over layers with each effect, for each kind of layer; needs scipy, `seedbed[lab]`."""
        require("scipy", "the correlation of ranks")
        from seedbed.statistics import bootstrap, within

        found = []
        for (perturb, effect), part in itertools.product(self.effects, (ALL, BLOCKS[-1])):
            values = self.means[effect, ALL, perturb]
            entropy = self.means.get(("normalised_entropy", part, ""), {})
            groups: dict[str, list[str]] = defaultdict(list)
            for layer in self.layers:
                if (self.prompts[0], layer.name) in values:
                    groups[layer.kind].append(layer.name)
            if len(groups) > 1:
                groups[ALL] = [name for names in [*groups.values()] for name in names]
            for kind, names in groups.items():
                at = [[(prompt, name) for name in names] for prompt in self.prompts]
                if len(names) < 3 or any(each not in entropy for row in at for each in row):
                    continue
                pair = ([[table[each] for each in row] for row in at] for table in (entropy, values))
                interval = bootstrap(within(*pair))
                found.append(Correlation(kind, part, perturb, effect, len(names), *interval))
        return found

    def table(self) -> dict[str, list[Any]]:
        """The tidy table, with each layer's half beside it."""
        return {**self.columns, "half": [self.halves[layer] for layer in self.columns["layer"]]}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the table: Parquet (.parquet, with `pip install "seedbed[lab]"`) or JSON (.json).

        Whole or not at all. JSON has what `load` reads, with the table by its columns under "columns".

        Raises BadInput for another ending, NotSupported where pyarrow is missing.
        """
        suffix = Path(path).suffix.lower()
        about = {"schema": SCHEMA, **{name: getattr(self, name) for name in _ABOUT}}
        about["layers"] = [dataclasses.astuple(layer) for layer in self.layers]
        if suffix == ".json":
            data = json.dumps({**about, "columns": self.table()}, allow_nan=False).encode()
        elif suffix == ".parquet":
            require("pyarrow", "a table in Parquet")
            import pyarrow
            from pyarrow import parquet

            arrow = pyarrow.table(self.table()).replace_schema_metadata({"seedbed": json.dumps(about)})
            buffer = io.BytesIO()
            parquet.write_table(arrow, buffer)
            data = buffer.getvalue()
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
            about = {name: data[name] for name in _ABOUT}
            about |= {name: tuple(value) for name, value in about.items() if isinstance(value, list)}
            layers = tuple(LayerInfo(*layer) for layer in data["layers"])
            return cls(**about, layers=layers, columns={name: data["columns"][name] for name in COLUMNS})
        except (ValueError, KeyError, TypeError) as error:
            raise BadRecord(f"{path} is no study that seedbed has written as JSON") from error

    def report(self, path: str | os.PathLike[str], fps: float = 8) -> Path:
        """Writes a page that needs no other file: profile, effects, correlations, frames and maps."""
        from seedbed.report.attention_page import study_page

        heads: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for *what, layer, head, value in self._rows("measure", "part", "layer", "head", "value"):
            if what == ["normalised_entropy", ALL]:
                heads[layer][head].append(value)
        measures = ("energy_proportion", "entropy_proportion", "normalised_entropy")
        means = {measure: self.by_layer(measure) for measure in measures}
        blocks = {b: [self.by_layer(m, b) for m in ("normalised_entropy", "mass")] for b in BLOCKS}
        layers = {
            each.name: {
                "name": each.name,
                "kind": each.kind,
                "half": self.halves[each.name],
                "heads": [float(np.mean(values)) for values in heads[each.name].values()],
                "blocks": {b: (h[each.name], m[each.name]) for b, (h, m) in blocks.items() if each.name in h},
                **{measure: found[each.name] for measure, found in means.items()},
            }
            for each in self.layers
        }
        effects = []
        for perturb, effect in self.effects:
            sizes: dict[str, list[float]] = {"high": [], "low": []}
            for (_, layer), value in self.means[effect, ALL, perturb].items():
                sizes[self.halves[layer]].append(value)
            effects += [{"perturb": perturb, "effect": effect, **sizes}] * all(sizes.values())
        data = {**vars(self), "fps": fps, "correlations": self.correlations(), "effects": effects}
        pictures = [
            {**layers[each.layer], **vars(each), "raw": each.raw.numpy(), "kept": each.kept.numpy()}
            for each in self.pictures
        ]
        page = study_page({**data, "layers": [*layers.values()], "pictures": pictures})
        return write_bytes_atomically(path, page.encode())


def require(package: str, what: str) -> None:
    """NotSupported where a package of the lab is missing, which `what` needs."""
    if find_spec(package) is None:
        raise NotSupported(f'{what} needs {package}: pip install "seedbed[lab]"')
