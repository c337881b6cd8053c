"""What a model's attention does: every call seen and answered, and numbers read off its rows; torch only."""

from seedbed.attention.disagreement import bansa_expected as bansa_expected
from seedbed.attention.disagreement import bansa_masked as bansa_masked
from seedbed.attention.rows import RowStatistics as RowStatistics
from seedbed.attention.rows import energy as energy
from seedbed.attention.rows import row_statistics as row_statistics
from seedbed.attention.rows import sample_rows as sample_rows
from seedbed.attention.tap import AttentionCall as AttentionCall
from seedbed.attention.tap import Tap as Tap
