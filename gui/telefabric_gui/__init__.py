"""The Qt client of Telefabric."""
