"""Where a request is answered, and why."""
