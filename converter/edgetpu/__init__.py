"""The Coral Edge TPU: what it would do with a TFLite file, the file that its compiler needs, and the compiler."""
