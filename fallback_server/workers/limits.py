"""How long workers may take for what they are told, and say nothing."""

ACK_S = 60.0
"""How long a worker has to load a version; one that takes longer is ended, and begins anew with what is served then."""

SILENT_S = 15.0
"""A worker that says nothing for so long hangs: it is ended. It says something every second."""

DRAINING_SILENT_S = 5.0
"""Likewise at a stop, which waits for it."""

STARTING_S = 30.0
"""Likewise of one that does not listen yet, and says nothing before."""

QUIET_S = 4.0
"""From when on the log tells that a worker says nothing, or has not loaded what the others have."""

CLOSE_S = 5.0
"""For all workers to end, from when they are told to; who takes longer is killed."""
