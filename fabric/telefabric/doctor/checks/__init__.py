"""Verdicts on the results of probes: pure functions."""
