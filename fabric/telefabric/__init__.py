"""Telefabric: a telemetry fabric for programs that step."""

__version__ = "0.1.0"
