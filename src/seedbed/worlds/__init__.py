"""Synthetic captioned videos whose truth can be read back exactly, without a neural judge."""
