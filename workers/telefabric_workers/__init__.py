"""The worker SDK of Telefabric."""
