"""The transport of the extra `fast`: HTTP/2 and gRPC in Rust, calls taken in lists by threads."""
