"""Weights & Biases: an offline folder, written by the user's own `wandb`, which `wandb sync` uploads."""

from __future__ import annotations

import os
from typing import Any

import wandb

from telefabric.errors import EnvironmentProblem
from telefabric.exchange.folder import Folder
from telefabric.exchange.scalars import scalars
from telefabric.exchange.writer import Writer
from telefabric.store.read.query import StoredEvent
from telefabric.store.read.reader import Reader
from telefabric_schemas import values


class WandbWriter(Writer):
    """Writes `wandb/offline-run-…`, a run of W&B for each run and agent. Nothing is sent."""

    def __init__(self, folder: Folder, reader: Reader, *, project: str) -> None:
        super().__init__(folder, reader)
        self._project = project
        self._runs: dict[tuple[str, str], Any] = {}
        os.environ.setdefault("WANDB_SILENT", "true")  # it would print over the progress bar
        folder.add("wandb").mkdir()

    def add(self, rows: list[StoredEvent]) -> None:
        for row in rows:
            found = list(scalars(row, self))
            if found:
                point = {scalar.name: scalar.value for scalar in found} | {"_timestamp": row.time_ns / 10**9}
                run = self._runs.get((row.run_id, row.agent_id)) or self._begin(row)
                run.log(point if found[0].step is None else point | {"global_step": found[0].step})

    def _begin(self, row: StoredEvent) -> Any:
        run = self.reader.run(row.run_id)
        metadata = values.decode(run.metadata) if run else None
        try:
            begun = wandb.init(
                mode="offline", dir=self.folder.path, project=self._project, name=row.run_id, group=row.run_id,
                job_type=row.agent_id, config=metadata if isinstance(metadata, dict) else None, reinit="create_new",
                settings=wandb.Settings(x_disable_stats=True, console="off", disable_git=True, x_disable_meta=True),
            )  # fmt: skip
        except wandb.Error as error:
            raise EnvironmentProblem(
                f"wandb {wandb.__version__} cannot begin a run: {error}: try another one"
            ) from None
        begun.define_metric("global_step", hidden=True)
        begun.define_metric("*", step_metric="global_step")
        self._runs[row.run_id, row.agent_id] = begun
        return begun

    def close(self) -> None:
        for run in self._runs.values():
            run.finish()
