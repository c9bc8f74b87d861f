"""tritonclient over HTTP against a running server; prints what it saw as JSON. Runs where tritonclient is installed.

python triton_http.py HOST:PORT
"""

import json
import sys

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException


def tensor(name, array, datatype, *, binary):
    one = InferInput(name, list(array.shape), datatype)
    one.set_data_from_numpy(array, binary_data=binary)
    return one


def halves(client, seen):
    x = np.array([[1, 2], [3, 4]], np.float32)
    for binary in (True, False):
        outputs = [InferRequestedOutput("y", binary_data=binary)]
        reply = client.infer("half", [tensor("x", x, "FP32", binary=binary)], outputs=outputs, request_id="r1")
        seen[f"half_{binary}"] = reply.as_numpy("y").tolist()
        seen[f"response_{binary}"] = {key: reply.get_response()[key] for key in ("id", "model_name", "model_version")}
    reply = client.infer("half", [tensor("x", x, "FP32", binary=True)], model_version="1")
    seen["version_1"] = reply.as_numpy("y").tolist()
    reply = client.infer("half", [tensor("x", x, "FP32", binary=True)], request_compression_algorithm="gzip")
    seen["gzip"] = reply.as_numpy("y").tolist()


def several(client, seen):
    for binary in (True, False):
        inputs = [
            tensor("a", np.array([1, 2], np.float32), "FP32", binary=binary),
            tensor("s", np.array([b"hi", b"yo"], object), "BYTES", binary=binary),
        ]
        outputs = [InferRequestedOutput("text", binary_data=binary), InferRequestedOutput("twice", binary_data=False)]
        reply = client.infer("several", inputs, outputs=outputs)
        seen[f"text_{binary}"] = [
            item if isinstance(item, str) else item.decode() for item in reply.as_numpy("text").tolist()
        ]
        seen[f"twice_{binary}"] = reply.as_numpy("twice").tolist()


def refused(client, seen):
    try:
        client.infer("half", [tensor("x", np.zeros((1, 3), np.float32), "FP32", binary=True)])
    except InferenceServerException as error:
        seen["refused"] = [error.status(), error.message()]


def refusal(call, *args, **options):
    try:
        call(*args, **options)
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return None


def absent(client):
    """Triton's calls that the server hasn't."""
    return {
        "trace": refusal(client.get_trace_settings),
        "trace of a model": refusal(client.update_trace_settings, "half", {"trace_rate": "1"}),
        "log": refusal(client.get_log_settings),
        "log settings": refusal(client.update_log_settings, {"log_info": True}),
        "system": refusal(client.get_system_shared_memory_status),
        "register": refusal(client.register_system_shared_memory, "r", "/r", 64),
        "cuda": refusal(client.get_cuda_shared_memory_status),
        "unregister": refusal(client.unregister_cuda_shared_memory),
    }


def main(address):
    seen = {}
    with InferenceServerClient(address) as client:
        seen["live"], seen["ready"] = client.is_server_live(), client.is_server_ready()
        seen["model_ready"] = [client.is_model_ready("half"), client.is_model_ready("half", "2")]
        seen["server"] = client.get_server_metadata()
        seen["metadata"] = client.get_model_metadata("several")
        halves(client, seen)
        several(client, seen)
        refused(client, seen)
        seen["config"] = client.get_model_config("several")
        seen["statistics"] = client.get_inference_statistics("half")["model_stats"]
        seen["statistics_of_all"] = client.get_inference_statistics()["model_stats"]
        seen["statistics_of_version"] = client.get_inference_statistics("half", "1")["model_stats"]
        seen["no_statistics"] = refusal(client.get_inference_statistics, "none")
        seen["absent"] = absent(client)
        seen["load_with"] = refusal(client.load_model, "half", config="{}")
        client.load_model("half")
        client.unload_model("half")
        seen["index"] = client.get_model_repository_index()
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1])
