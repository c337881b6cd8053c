"""What a model's attention does: every call seen and answered, and numbers read off its rows; torch only."""

from seedbed.attention.disagreement import bansa_expected, bansa_masked
from seedbed.attention.rows import RowStatistics, energy, row_statistics, sample_rows
from seedbed.attention.tap import AttentionCall, Tap

__all__ = [
    "AttentionCall",
    "RowStatistics",
    "Tap",
    "bansa_expected",
    "bansa_masked",
    "energy",
    "row_statistics",
    "sample_rows",
]
