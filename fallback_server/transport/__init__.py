"""Transports only translate: wire messages to calls of the data plane, its answers and faults back."""
