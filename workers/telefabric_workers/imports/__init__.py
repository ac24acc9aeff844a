"""Bringing what other programs recorded into a store: `telefabric import`."""
