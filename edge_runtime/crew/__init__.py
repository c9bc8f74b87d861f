"""Supervision: which devices run a version, and what happens when one fails, hangs, vanishes or returns."""
