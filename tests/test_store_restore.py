"""A store is lost and a backup takes its place: spools send what they still hold, the rest is named as lost."""

from __future__ import annotations

import json
from pathlib import Path

from processes import broker, free_ports, run, store, wait_for
from slowness import patience

from telefabric import limits
from telefabric.store.file.database import FILE_NAME
from telefabric.store.file.verify import audit
from telefabric_workers import Worker, connect

OBSERVATION = bytes(range(256)) * 16


def train(worker: Worker, spooled_bytes: int) -> None:
    """Emit so many bytes, and wait until they are stored."""
    for _ in range(spooled_bytes // len(OBSERVATION)):
        worker.step(episode=0, step=0, observation=OBSERVATION, reward=1.0)
    assert worker.flush(patience(30))


def lose(folder: Path, backup: Path) -> None:
    """The way of STORE.md: move the three aside together, and put the copy in the place of the first."""
    aside = folder / "aside"
    aside.mkdir()
    for suffix in ("", "-wal", "-shm"):
        file = folder / f"{FILE_NAME}{suffix}"
        if file.exists():
            file.rename(aside / file.name)
    backup.rename(folder / FILE_NAME)


def test_what_the_spools_hold_comes_again_and_the_rest_is_a_named_gap(tmp_path: Path) -> None:
    port = free_ports()
    file, backup = tmp_path / FILE_NAME, tmp_path / "backup.sqlite"
    with broker(port), store(port, tmp_path, stderr=tmp_path / "store.log") as service:
        worker = connect(f"tcp://127.0.0.1:{port}", run="restored", spool=tmp_path / "spool", exit_flush_s=patience(30))
        train(worker, limits.SEGMENT_BYTES // 2)
        saved = worker.emitted
        assert run("store", "backup", str(backup), "--store", str(file)).returncode == 0
        train(worker, 2 * limits.SEGMENT_BYTES)  # whole segments go from the spool, and the last one stays
        assert service.stop() == 0
        lose(tmp_path, backup)
        service.start()
        train(worker, limits.SEGMENT_BYTES // 4)
        assert worker.close()
        assert worker.dropped == 0, "the worker has delivered everything, once"

        def accounted() -> bool:
            return audit(file, worker.stream_id, worker.emitted).missing == 0

        wait_for(accounted, "everything is stored or a gap")
    found = audit(file, worker.stream_id, worker.emitted)
    assert found.duplicated == 0
    assert found.stored + found.lost == worker.emitted
    assert found.lost > 0
    assert found.stored > saved + limits.SEGMENT_BYTES // 2 // len(OBSERVATION), "more than backup and what came after"
    verified = run("store", "verify", "--store", str(file), "--json")
    assert verified.returncode == 0, verified.stderr
    (gap,) = json.loads(verified.stdout)["findings"]
    assert (gap["kind"], gap["detail"]) == ("gap", "no_longer_held")
    assert (gap["first_seq"], gap["last_seq"]) == (saved + 1, saved + found.lost)
    assert "Traceback" not in (tmp_path / "store.log").read_text()
