"""Verdicts on the store's file in the data folder. No input or output."""

from __future__ import annotations

from pathlib import Path

from telefabric import limits
from telefabric.cli.doctor.finding import WARNING, Finding, size

STORE_LOG = "telemetry.sqlite-wal"


def judge_store_log(log: Path, log_bytes: int) -> Finding | None:
    """`log`: the write-ahead log beside the store. None when there is none, or a short one."""
    if log_bytes <= limits.LOG_BYTES_LONG:
        return None
    return Finding(
        "store log", WARNING,
        f"{log} has grown to {size(log_bytes)}: a process reads the store and does not end; "
        f"at {size(limits.LOG_BYTES_MAX)} the store waits for it.",
        f"lsof {log} names who has it open; end what reads on and on.",
    )  # fmt: skip
