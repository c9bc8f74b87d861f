"""tritonclient over TLS, with a certificate and with a token: `triton_tls.py GRPC REST FOLDER TOKEN`; prints JSON."""

import json
import sys

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http

ROWS = np.float32([[1, 2, 3, 4]])


def asked(module):
    tensor = module.InferInput("x", list(ROWS.shape), "FP32")
    tensor.set_data_from_numpy(ROWS)
    return [tensor]


def main():
    grpc_address, rest_address, folder, token = sys.argv[1:]
    files = {name: f"{folder}/{name}.pem" for name in ("ca", "cert", "key")}
    client = over_grpc.InferenceServerClient(
        grpc_address,
        ssl=True,
        root_certificates=files["ca"],
        private_key=files["key"],
        certificate_chain=files["cert"],
    )
    seen = {"grpc": client.infer("press-a", asked(over_grpc)).as_numpy("y").tolist()}
    seen["ready"] = client.is_model_ready("press-a")
    seen["index"] = sorted(each["name"] for each in client.get_model_repository_index(as_json=True)["models"])
    client.close()
    client = over_http.InferenceServerClient(rest_address, ssl=True, ssl_options={"ca_certs": files["ca"]})
    headers = {"authorization": f"Bearer {token}"}
    seen["http"] = client.infer("press-a", asked(over_http), headers=headers).as_numpy("y").tolist()
    try:
        client.infer("press-a", asked(over_http))
    except Exception as error:  # noqa: BLE001  its own, by whichever name
        seen["refused"] = str(error)
    client.close()
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main()
