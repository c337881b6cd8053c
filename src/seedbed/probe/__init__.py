"""The only room that knows pipelines: it asks them, and never imitates them."""

from seedbed.probe.layouts import NoiseSpec
from seedbed.probe.ledger import Ledger
from seedbed.probe.probe import Evaluation, LayerInfo, Probe
from seedbed.probe.rollout import Rollout
from seedbed.probe.shrinking import CannotShrink, Shrinking

__all__ = [
    "CannotShrink",
    "Evaluation",
    "LayerInfo",
    "Ledger",
    "NoiseSpec",
    "Probe",
    "Rollout",
    "Shrinking",
]
