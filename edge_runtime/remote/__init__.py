"""The far side: endpoints found or given, and calls to them. Only this folder of the runtime loads grpc."""
