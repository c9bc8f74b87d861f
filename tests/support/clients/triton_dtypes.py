"""Every datatype through tritonclient, there and back; prints what came otherwise than it went as JSON.

python triton_dtypes.py grpc|http HOST:PORT MODEL
    MODEL: for each datatype a signature of its name, y = x of any two dimensions.
"""

import json
import sys

import ml_dtypes
import numpy as np
from tritonclient import grpc, http
from tritonclient.utils import InferenceServerException

NUMBERS = {
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
STRINGS = np.array([[b"", b"a"], [b"\x00\xff", "Grüße".encode()], [b"", b"x" * 300]], object)


def values(datatype):
    """Arrays of a datatype: the ends of its range, nothing at all, and something large."""
    if datatype == "BYTES":
        return [STRINGS, STRINGS[:1, :1], np.empty((0, 3), object), np.empty((2, 0), object)]
    if datatype == "BOOL":
        return [np.array([[True, False], [False, True]]), np.empty((0, 2), bool)]
    if datatype == "BF16":
        dtype = np.dtype(ml_dtypes.bfloat16)
        return [np.array([[0.0, -1.5], [3e38, np.inf]], dtype), np.empty((0, 4), dtype), np.ones((700, 300), dtype)]
    dtype = np.dtype(NUMBERS[datatype])
    about = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    large = np.arange(300_000).reshape(1000, 300) % 100
    ends = np.array([[about.min, about.max], [0, 1]], dtype)
    return [ends, np.empty((0, 2), dtype), np.empty((3, 0), dtype), large.astype(dtype)]


def ways(module, datatype):
    """How tensors go and come: as bytes, and over HTTP in the JSON too where the datatype has a form there."""
    if module is grpc:
        return [({}, {})]
    yes, no = {"binary_data": True}, {"binary_data": False}
    if datatype in {"FP16", "BF16"}:
        return [(yes, yes)]
    return [(yes, yes), (no, yes), (yes, no), (no, no)]


def infer(module, client, model, datatype, array, *, there, back):
    one = module.InferInput("x", list(array.shape), datatype)
    one.set_data_from_numpy(array, **there)
    asked = [module.InferRequestedOutput("y", **back)]
    return client.infer(model, [one], outputs=asked, parameters={"signature_name": datatype}).as_numpy("y")


def same(sent, got):
    if got is None or got.shape != sent.shape:
        return False
    if sent.dtype.kind != "O":
        return got.dtype == sent.dtype and got.tobytes() == sent.tobytes()
    texts = [item if isinstance(item, bytes) else item.encode() for item in got.reshape(-1).tolist()]
    return texts == sent.reshape(-1).tolist()


def wrong_sizes(module, client, model):
    """Raw tensors that are too short or too long: what the server says."""
    said = []
    for datatype, raw in (("FP32", b"1234567"), ("BYTES", b"\x05\0\0\0ab"), ("BYTES", b"\0\0\0\0x"), ("BF16", b"123")):
        one = module.InferInput("x", [1, 1], datatype)
        if module is grpc:
            one._raw_content = raw
        else:
            one._raw_data, one._parameters = raw, {"binary_data_size": len(raw)}
        try:
            client.infer(model, [one], parameters={"signature_name": datatype})
        except InferenceServerException as error:
            said.append([error.status(), error.message()])
        else:
            said.append(None)
    return said


def main(transport, address, model):
    module = {"grpc": grpc, "http": http}[transport]
    tried, differ = 0, []
    with module.InferenceServerClient(address) as client:
        for datatype in (*NUMBERS, "BOOL", "BF16", "BYTES"):
            for array in values(datatype):
                for there, back in ways(module, datatype):
                    text = not back or back["binary_data"] or b"\x00\xff" not in array.reshape(-1).tolist()
                    if datatype == "BYTES" and not (there.get("binary_data", True) and text):
                        continue  # Bytes that are no text have no JSON form in this protocol.
                    tried += 1
                    try:
                        got = infer(module, client, model, datatype, array, there=there, back=back)
                        if not same(array, got):
                            differ.append([datatype, list(array.shape), there, back, str(got)[:300]])
                    except InferenceServerException as error:
                        differ.append([datatype, list(array.shape), there, back, error.message()])
        wrong = wrong_sizes(module, client, model)
        answers_still = infer(module, client, model, "INT8", np.ones((1, 1), np.int8), there={}, back={}).tolist()
    sys.stdout.write(json.dumps({"tried": tried, "differ": differ, "wrong": wrong, "still": answers_still}))


if __name__ == "__main__":
    main(*sys.argv[1:])
