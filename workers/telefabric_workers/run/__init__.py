"""`telefabric run`: any program is a worker."""
