"""Triton's own gRPC client against a server; run by an interpreter that has it. Prints what it saw as JSON.

python triton_grpc.py HOST:PORT MODEL
    MODEL: y = x * 2, float32 [-1, 2]; loaded and unloaded too.
"""

import json
import queue
import sys

import numpy as np
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException


def tensor(x, name="x"):
    asked = triton.InferInput(name, list(x.shape), "FP32")
    asked.set_data_from_numpy(x)
    return asked


def refused(call, *args, **options):
    try:
        call(*args, **options)
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return None


def streamed(client, name):
    """Three good requests and a bad one in one stream: id -> answer."""
    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for number in range(3):
        x = np.full((1, 2), number, np.float32)
        client.async_stream_infer(name, [tensor(x)], request_id=str(number))
    client.async_stream_infer(name, [tensor(np.zeros((1, 3), np.float32))], request_id="bad")
    seen = {}
    for _ in range(4):
        result, error = answers.get(timeout=60)
        if error is None:
            seen[result.get_response().id] = result.as_numpy("y").tolist()
        else:
            seen["error"] = error.message()
    client.stop_stream()
    return seen


def main():
    address, name = sys.argv[1:]
    client = triton.InferenceServerClient(address)
    x = np.float32([[1, 2], [3, 4]])
    large = np.random.default_rng(0).random((600_000, 2), np.float32)
    result = client.infer(name, [tensor(x)], request_id="7", outputs=[triton.InferRequestedOutput("y")])
    metadata = client.get_model_metadata(name, as_json=True)
    answers = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": [client.is_model_ready(name), client.is_model_ready(name, "1"), client.is_model_ready("half")],
        "server": client.get_server_metadata(as_json=True),
        "metadata": metadata,
        "y": result.as_numpy("y").tolist(),
        "response": [result.get_response().id, result.get_response().model_name, result.get_response().model_version],
        "version": client.infer(name, [tensor(x)], model_version="1").as_numpy("y").tolist(),
        "label": client.infer(name, [tensor(x)], model_version="stable").as_numpy("y").tolist(),
        "timeout": client.infer(name, [tensor(x)], timeout=20_000_000).as_numpy("y").tolist(),
        "large": bool((client.infer(name, [tensor(large)]).as_numpy("y") == large * 2).all()),
        "stream": streamed(client, name),
        "wrong_name": refused(client.infer, name, [tensor(x, "z")]),
        "wrong_version": refused(client.infer, name, [tensor(x)], model_version="5"),
        "unknown": refused(client.infer, "half", [tensor(x)]),
        "sequence": refused(client.infer, name, [tensor(x)], sequence_id=3, sequence_start=True),
        "index": client.get_model_repository_index(as_json=True),
        "config": client.get_model_config(name, as_json=True)["config"],
        "statistics": client.get_inference_statistics(name, as_json=True)["model_stats"],
        "statistics_of_all": client.get_inference_statistics(as_json=True)["model_stats"],
        "statistics_of_version": client.get_inference_statistics(name, "1", as_json=True)["model_stats"],
        "no_statistics": refused(client.get_inference_statistics, "half"),
        "absent": {
            "trace": refused(client.get_trace_settings),
            "trace of a model": refused(client.update_trace_settings, name, {"trace_rate": "1"}),
            "log": refused(client.get_log_settings),
            "log settings": refused(client.update_log_settings, {"log_info": True}),
            "system": refused(client.get_system_shared_memory_status),
            "register": refused(client.register_system_shared_memory, "r", "/r", 64),
            "cuda": refused(client.get_cuda_shared_memory_status),
            "unregister": refused(client.unregister_cuda_shared_memory),
        },
    }
    client.unload_model(name)
    client.load_model(name)
    sys.stdout.write(json.dumps(answers))


if __name__ == "__main__":
    main()
