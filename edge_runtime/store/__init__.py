"""The packages that are installed on the device."""
