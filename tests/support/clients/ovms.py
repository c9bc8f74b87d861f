"""What a program with ovmsclient sees of a server, as JSON: python ovms.py GRPC_HOST:PORT REST_HOST:PORT.

Run by an interpreter that has ovmsclient.
"""

import json
import sys

import numpy as np
from ovmsclient import ModelNotFoundError, make_grpc_client, make_http_client


def seen(client):
    x = np.array([[1, 2, 3]], np.float32)
    try:
        client.predict(inputs={"x": x}, model_name="nope")
    except ModelNotFoundError as error:
        refusal = str(error)
    return {
        "latest": np.asarray(client.predict(inputs={"x": x}, model_name="scale")).tolist(),
        "version": np.asarray(client.predict(inputs={"x": x}, model_name="scale", model_version=2)).tolist(),
        "status": {str(key): one["state"] for key, one in client.get_model_status(model_name="scale").items()},
        "metadata": client.get_model_metadata(model_name="scale"),
        "refusal": refusal,
    }


def main(grpc_address, rest_address):
    found = {"grpc": seen(make_grpc_client(grpc_address)), "rest": seen(make_http_client(rest_address))}
    sys.stdout.write(json.dumps(found, default=str))


if __name__ == "__main__":
    main(*sys.argv[1:])
