"""A small certificate authority for one site: servers, devices, and who is trusted no more."""
