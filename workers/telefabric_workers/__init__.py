"""The worker SDK of Telefabric: `connect`, and what it returns."""

from telefabric_workers.connection import connect
from telefabric_workers.environment import WorkerEnvironment
from telefabric_workers.worker import Worker

__all__ = ["Worker", "WorkerEnvironment", "connect"]
