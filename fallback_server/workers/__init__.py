"""Several processes that share one port: the first has all that there is, the others answer what is asked most."""
