"""Turns a TensorFlow SavedModel into a package: TFLite variants, measured, with labels, preprocessing and digests."""
