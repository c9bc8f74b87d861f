"""The wire: messages, tensor codec, RPC paths, status codes and mDNS names. The contract between server and device.

protobuf, grpc and numpy; imports nothing else of this project. Import the modules by name: only `methods` and
`status` load grpc, so that a device without a fallback server never pays for it.
"""
