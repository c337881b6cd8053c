"""Blocks of another size than the package would choose."""

from unittest import mock

from seedbed.attention.logits import Logits


def blocks_of(rows):
    """Inside, logits are worked on by so many rows at a time; None leaves that to the package."""
    chosen = Logits.rows_per_block
    return mock.patch.object(Logits, "rows_per_block", lambda self, copies: rows or chosen(self, copies))
