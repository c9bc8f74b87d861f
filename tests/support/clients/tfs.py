"""What a program with tensorflow-serving-api sees of a server, as JSON: python tfs.py HOST:PORT."""

import json
import sys

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


def example(*values):
    feature = tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Example(features=tf.train.Features(feature={"x": feature}))


class Asker:
    def __init__(self, address):
        channel = grpc.insecure_channel(address)
        self.predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(channel)

    def predict(self, name, inputs, **spec):
        request = predict_pb2.PredictRequest()
        request.model_spec.name = name
        if "version" in spec:
            request.model_spec.version.value = spec["version"]
        if "label" in spec:
            request.model_spec.version_label = spec["label"]
        for key, value in inputs.items():
            request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
        reply = self.predictions.Predict(request, timeout=30)
        outputs = {key: tf.make_ndarray(value).tolist() for key, value in reply.outputs.items()}
        return {"outputs": outputs, "version": reply.model_spec.version.value, "by": reply.model_spec.signature_name}

    def text(self):
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "text"
        request.inputs["s"].CopyFrom(tf.make_tensor_proto([b"a", b"\xff\0"]))
        reply = self.predictions.Predict(request, timeout=30)
        return [value.hex() for value in tf.make_ndarray(reply.outputs["out"])]

    def classify(self):
        request = classification_pb2.ClassificationRequest()
        request.model_spec.name = "examples"
        request.input.example_list.examples.extend([example(1, 2), example(3, 4)])
        reply = self.predictions.Classify(request, timeout=30)
        return [[[one.label, one.score] for one in row.classes] for row in reply.result.classifications]

    def with_context(self):
        request = regression_pb2.RegressionRequest()
        request.model_spec.name = "examples"
        request.model_spec.signature_name = "regress"
        request.input.example_list_with_context.context.CopyFrom(example(5, 6))
        request.input.example_list_with_context.examples.extend([tf.train.Example(), example(1, 1)])
        reply = self.predictions.Regress(request, timeout=30)
        return [one.value for one in reply.result.regressions]

    def multi(self):
        request = inference_pb2.MultiInferenceRequest()
        for signature, method in (("serving_default", CLASSIFY), ("regress", REGRESS)):
            task = request.tasks.add(method_name=method)
            task.model_spec.name = "examples"
            task.model_spec.signature_name = signature
        request.input.example_list.examples.append(example(1, 2))
        reply = self.predictions.MultiInference(request, timeout=30)
        first, second = reply.results
        return {
            "scores": [one.score for one in first.classification_result.classifications[0].classes],
            "value": second.regression_result.regressions[0].value,
            "versions": [result.model_spec.version.value for result in reply.results],
        }

    def metadata(self):
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = "examples"
        reply = self.predictions.GetModelMetadata(request, timeout=30)
        packed = get_model_metadata_pb2.SignatureDefMap()
        assert reply.metadata["signature_def"].Unpack(packed)
        return {name: one.method_name for name, one in packed.signature_def.items()}

    def status(self, name):
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = name
        reply = self.models.GetModelStatus(request, timeout=30)
        names = get_model_status_pb2.ModelVersionStatus.State
        return {one.version: names.Name(one.state) for one in reply.model_version_status}

    def reload(self, text):
        request = model_management_pb2.ReloadConfigRequest()
        text_format.Parse(text, request.config)
        reply = self.models.HandleReloadConfigRequest(request, timeout=60)
        return reply.status.error_code

    def refusal(self, call):
        try:
            return {"answered": call()}
        except grpc.RpcError as error:
            return [error.code().name, error.details()]


def main(address, base_path):
    ask = Asker(address)
    x = np.array([[1, 2, 3]], np.float32)
    config = (
        'model_config_list { config { name: "scale" base_path: "%s/scale" model_platform: "tensorflow" '
        "model_version_policy { specific { versions: 1 versions: 2 } } %s } "
        'config { name: "text" base_path: "%s/text" model_platform: "tensorflow" } '
        'config { name: "examples" base_path: "%s/examples" model_platform: "tensorflow" } }'
    )
    labels = 'version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 2 }'
    seen = {
        "before": ask.status("scale"),
        "reload": ask.reload(config % (base_path, "", base_path, base_path)),
        "labelled": ask.reload(config % (base_path, labels, base_path, base_path)),
        "after": ask.status("scale"),
        "latest": ask.predict("scale", {"x": x}),
        "version": ask.predict("scale", {"x": x}, version=1),
        "label": ask.predict("scale", {"x": x}, label="stable"),
        "empty": ask.predict("scale", {"x": np.zeros((0, 3), np.float32)}),
        "text": ask.text(),
        "classify": ask.classify(),
        "context": ask.with_context(),
        "multi": ask.multi(),
        "metadata": ask.metadata(),
        "unknown label": ask.refusal(lambda: ask.predict("scale", {"x": x}, label="nope")),
        "unknown version": ask.refusal(lambda: ask.predict("scale", {"x": x}, version=7)),
        "unknown model": ask.refusal(lambda: ask.predict("nope", {"x": x})),
    }
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
