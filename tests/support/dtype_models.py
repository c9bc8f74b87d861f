"""A model with a signature for each datatype of the Open Inference Protocol, y = x."""

import numpy as np
from support.rest_stand import NumpyExecutor

from fallback_server.protocol.open_inference import numpy_dtype

DATATYPES = (
    *("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"),
    *("FP16", "FP32", "FP64", "BF16", "BYTES"),
)


def echoes(datatypes=DATATYPES):
    def spec(datatype):
        return ((-1, -1), numpy_dtype(datatype))

    return NumpyExecutor(
        **{one: ({"x": spec(one)}, {"y": spec(one)}, lambda x: {"y": np.array(x)}) for one in datatypes}
    )
