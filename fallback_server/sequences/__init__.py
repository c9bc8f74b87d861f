"""Sequences: models whose state goes from step to step, and stays with the server meanwhile."""
