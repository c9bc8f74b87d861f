"""HTTP: TensorFlow Serving's REST interface and the Open Inference Protocol's, on one port."""
