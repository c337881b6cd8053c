"""Refinement: one method per file; noise in, noise out, its cost declared."""
