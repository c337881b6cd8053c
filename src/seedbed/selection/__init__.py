"""Choosing: `select`, `score`, `generate`, `replay`, the contact sheet, and the record of a choice."""
