"""Captioned videos that are read back without a neural judge: shapes exactly, digits nearly."""
