"""Which noise: acquisition functions, the pool they choose from, and the record of the choice."""

from seedbed.selection.acquisitions import NAMES, Acquisition, create
from seedbed.selection.bansa import Bansa, Reversed
from seedbed.selection.dropout import BansaDropout
from seedbed.selection.entropy import Entropy
from seedbed.selection.generation import Generation, generate, replay
from seedbed.selection.pool import score, select
from seedbed.selection.previewing import preview
from seedbed.selection.profile import Profile, find_profile, read_profile, save_profile
from seedbed.selection.random import Random
from seedbed.selection.record import GivenNoise, Selection
from seedbed.selection.rungs import Rung
from seedbed.selection.sheet import Sheet, pick, previews

__all__ = [
    "NAMES",
    "Acquisition",
    "Bansa",
    "BansaDropout",
    "Entropy",
    "Generation",
    "GivenNoise",
    "Profile",
    "Random",
    "Reversed",
    "Rung",
    "Selection",
    "Sheet",
    "create",
    "find_profile",
    "generate",
    "pick",
    "preview",
    "previews",
    "read_profile",
    "replay",
    "save_profile",
    "score",
    "select",
]
