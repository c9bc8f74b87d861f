"""Interrupts a call at each of the points at which CPython looks for signals, one after the other."""

from __future__ import annotations

import dis
import functools
import sys

_LOOKS = {"CALL", "CALL_KW", "CALL_FUNCTION_EX", "RESUME", "JUMP_BACKWARD"}
"""The instructions after which signals' handlers run."""

_BEGUN = -2
"""In the place of the offset of a function's first instruction, RESUME, which is not traced."""


@functools.cache
def _names(code):
    return {one.offset: one.opname for one in dis.get_instructions(code)}


def interrupted_at(point, call, *folders, error=KeyboardInterrupt):
    """Calls, and raises the error at the n-th such point in files of these folders; whether there was one."""
    seen = 0
    before = (None, -1)

    def local(frame, event, arg):
        nonlocal seen, before
        if event != "opcode":
            before = before if event == "line" else (None, -1)
            return local
        if before[0] is frame and (before[1] == _BEGUN or _names(frame.f_code).get(before[1]) in _LOOKS):
            seen += 1
            if seen == point:
                sys.settrace(None)
                raise error
        before = (frame, frame.f_lasti)
        return local

    def trace(frame, event, arg):
        nonlocal before
        before = (frame, _BEGUN)
        if not any(folder in frame.f_code.co_filename for folder in folders):
            return None
        frame.f_trace_opcodes = True
        return local

    tracing = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except error:
        pass
    finally:
        sys.settrace(tracing)
    return seen >= point
