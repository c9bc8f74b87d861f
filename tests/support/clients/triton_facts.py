"""What tritonclient hears of a server's models beside their answers; prints it as JSON.

python triton_facts.py grpc|http HOST:PORT
    The server has `scale` (y = x * version, float32 [-1, 3]), `text`, `sums` and `conv`.
"""

import json
import sys

import numpy as np
from tritonclient import grpc, http


def numbers(document):
    """Protobuf's JSON has 64-bit integers as strings, and leaves zeros out; Triton's own has numbers."""
    if isinstance(document, dict):
        return {key: value if key in {"name", "version"} else numbers(value) for key, value in document.items()}
    if isinstance(document, list):
        return [numbers(value) for value in document]
    return int(document) if isinstance(document, str) and document.lstrip("-").isdecimal() else document


def main(transport, address):
    module = {"grpc": grpc, "http": http}[transport]
    told = {"as_json": True} if module is grpc else {}
    x = np.float32([[1, 2, 3], [4, 5, 6]])
    one = module.InferInput("x", list(x.shape), "FP32")
    one.set_data_from_numpy(x)
    with module.InferenceServerClient(address) as client:
        configs = {name: client.get_model_config(name, **told) for name in ("scale", "text", "sums", "conv")}

        def statistics(name, version):
            (stats,) = client.get_inference_statistics(name, version, **told)["model_stats"]
            return numbers(stats)

        before = statistics("scale", "3")
        y = [client.infer("scale", [one], model_version="3").as_numpy("y").tolist() for _ in range(5)]
        seen = {
            "configs": {name: numbers(config.get("config", config)) for name, config in configs.items()},
            "y": y[0],
            "before": before,
            "after": statistics("scale", "3"),
            "all": [stats["name"] for stats in client.get_inference_statistics(**told)["model_stats"]],
        }
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
