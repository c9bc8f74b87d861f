"""Merging requests that wait for the same signature of the same version. Knows no backend and no transport."""
