"""A long run: mixed load, versions that change, faults now and then, and what grows meanwhile."""
