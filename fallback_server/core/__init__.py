"""The life of versions: which should be served, which are, and who is using them. Knows no backend and no transport."""
