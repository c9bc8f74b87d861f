"""Brings packages into a store: a first run, room for it, and what is there by then."""
