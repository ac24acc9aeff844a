"""The table of formats in which events are exported."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from telefabric.errors import EnvironmentProblem
from telefabric.exchange import scalars
from telefabric.exchange.folder import Folder
from telefabric.exchange.writer import Writer
from telefabric.store.read.reader import KINDS, Reader


class Format(NamedTuple):
    """A format, and what its command offers."""

    writer: str
    """The class of its `Writer`, in `telefabric.exchange`."""
    needs: str
    """What pip installs for it; empty when the command has all of it."""
    kinds: tuple[str, ...]
    """What it may have; those in `unasked` only if they are named."""
    summary: str
    unasked: frozenset[str] = frozenset()
    resumes: bool = True
    """An export that was interrupted is continued, and not begun again."""
    options: tuple[str, ...] = ()

    def default_kinds(self) -> tuple[str, ...]:
        return tuple(kind for kind in self.kinds if kind not in self.unasked)

    def opener(self, reader: Reader, options: dict[str, Any]) -> Callable[[Folder], Writer]:
        """Makes its writer. Raises `EnvironmentProblem` when what it needs is not installed."""
        module, _, name = self.writer.partition(":")
        try:
            writer = getattr(import_module(f"telefabric.exchange.{module}"), name)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("telefabric"):
                raise
            raise EnvironmentProblem(f"this export needs: pip install {self.needs}") from None

        def opened(folder: Folder) -> Writer:
            made: Writer = writer(folder, reader, **options)
            return made

        return opened


_REWARDS = frozenset({"step"})
FORMATS = {
    "csv": Format(
        "csv:CsvWriter", "", KINDS, "a CSV file for each kind of event", unasked=frozenset({"frame", "quarantine"})
    ),
    "parquet": Format(
        "parquet:ParquetWriter", "'telefabric[parquet]'", KINDS, "Parquet files of each kind of event", options=("raw",)
    ),
    "mcap": Format(
        "mcap:McapWriter", "'telefabric[mcap]'", KINDS, "MCAP files, with pictures", options=("raw",)
    ),
    "tensorboard": Format(
        "tensorboard:TensorBoardWriter", "", scalars.KINDS, "TensorBoard's event files", unasked=_REWARDS
    ),
    "wandb": Format(
        "wandb:WandbWriter", "wandb", scalars.KINDS, "offline runs of W&B", unasked=_REWARDS, resumes=False,
        options=("project",),
    ),
    "minari": Format(
        "minari:MinariWriter", "'telefabric[minari]'", ("reset", "step", "episode"), "a Minari data set", resumes=False,
        options=("env",),
    ),
}  # fmt: skip
