"""A versioned multi-model server that speaks TensorFlow Serving's protocol."""
