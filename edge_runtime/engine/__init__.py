"""Engines: loaded interpreters, one caller at a time."""
