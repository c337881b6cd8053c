"""Which noise is promising: acquisition functions, one idea per file, and how one is named in a text."""

from __future__ import annotations

from typing import Any

from seedbed import texts
from seedbed.acquisition.bansa import Bansa as Bansa
from seedbed.acquisition.bansa import BansaDropout as BansaDropout
from seedbed.acquisition.bansa import Entropy as Entropy
from seedbed.acquisition.base import Acquisition as Acquisition
from seedbed.acquisition.base import NoiseScore as NoiseScore
from seedbed.acquisition.base import Random as Random
from seedbed.acquisition.base import RolloutScore as RolloutScore
from seedbed.acquisition.base import Scores as Scores
from seedbed.acquisition.learned import Learned as Learned
from seedbed.acquisition.previews import Previews as Previews
from seedbed.acquisition.scoring import AttentionScore as AttentionScore
from seedbed.acquisition.search import LowFrequencies as LowFrequencies
from seedbed.acquisition.search import Neighbours as Neighbours
from seedbed.acquisition.search import RandomSearch as RandomSearch
from seedbed.acquisition.search import Search as Search
from seedbed.errors import BadInput
from seedbed.noise import Pool as Pool

REGISTRY: dict[str, type[Acquisition]] = {
    kind.name: kind
    for kind in (
        *(Random, Entropy, Bansa, BansaDropout, Learned, Previews),
        *(RandomSearch, Neighbours, LowFrequencies),
    )
}


def create(name: str, **options: Any) -> Acquisition:
    """The acquisition function of that name with these options, e.g. `create("bansa", keep=0.5)`.

    Raises:
        BadInput: no such name, or an option that it does not have or whose value it refuses.
    """
    return texts.create(REGISTRY, "acquisition function", name, options, " or auto")


def resolve(acquisition: str | Acquisition) -> Acquisition:
    """An instance as it is; a text as `name` or `name:option=value,option=value`.

    Values are JSON or plain words: `bansa:layers=joint,race=[[3,5],[6,1]]`, `previews:verifier=shapes`.

    Raises:
        BadInput: unknown name or option, or a value that the function refuses.
    """
    if isinstance(acquisition, Acquisition):
        return acquisition
    if not isinstance(acquisition, str):
        raise BadInput(
            f"acquisition must be a name or an Acquisition instance, not {type(acquisition).__name__}"
        )
    return texts.parse(REGISTRY, "acquisition function", acquisition, " or auto")
