"""Probes: input and output, without a verdict."""
