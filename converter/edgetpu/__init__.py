"""The Coral Edge TPU: what it would do with a TFLite file, the file that its compiler needs, and the compiler.

`find_compiler` runs anywhere; the other functions load LiteRT or its schema, so they run in a child process.
"""

from converter.edgetpu.compiler import Compiled, compile, find_compiler  # noqa: A004  the program's own verb
from converter.edgetpu.mapping import CUSTOM_OPERATOR, is_compiled, report
from converter.edgetpu.static import static_batch

__all__ = [
    "CUSTOM_OPERATOR",
    "Compiled",
    "compile",
    "find_compiler",
    "is_compiled",
    "report",
    "static_batch",
]
