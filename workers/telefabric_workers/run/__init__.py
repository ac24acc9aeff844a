"""`telefabric run`: any program that prints lines is a worker."""
