"""Readers of model formats, one module each."""
