"""Captioned videos that are read back without a neural judge: shapes exactly, digits nearly."""

from typing import Any

from seedbed.worlds import digits, shapes

WORLDS: dict[str, Any] = {"shapes": shapes, "digits": digits}  # of one size and length
