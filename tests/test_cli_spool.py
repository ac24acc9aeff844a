"""`telefabric spool drain`: what it says of spools that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import FabricService
from processes import free_ports, run

from telefabric_workers import connect

NOBODY = "tcp://127.0.0.1:9"


def leave(root: Path) -> Path:
    """The spool of a worker that reached no broker."""
    with connect(NOBODY, spool=root, exit_flush_s=0) as worker:
        worker.metric("loss", 1.0)
    return root / worker.stream_id.hex()


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_a_spool_that_cannot_be_read_is_named_and_the_others_are_delivered(
    fabric_service: FabricService, content: bytes
) -> None:
    bad = leave(fabric_service.spool)
    (bad / "stream").write_bytes(content)
    words = ["spool", "drain", "--connect", fabric_service.url, "--spool", str(fabric_service.spool)]
    alone = run(*words)
    good = leave(fabric_service.spool)
    beside = run(*words)
    for done in (alone, beside):
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == (
            f"telefabric: 1 spool cannot be read: {bad}: correct the rights of such a folder, or move it away"
        )
        assert "Traceback" not in done.stderr
    assert alone.stdout == ""
    assert beside.stdout.startswith("Delivered: ")
    assert bad.exists()
    assert not good.exists()
    told = run(*words, "--json")
    assert told.returncode == 1
    assert json.loads(told.stdout)["unreadable"] == [str(bad)]


def test_a_spool_that_cannot_be_read_is_told_beside_those_that_could_not_be_delivered(tmp_path: Path) -> None:
    bad = leave(tmp_path)
    (bad / "stream").write_bytes(b"")
    leave(tmp_path)
    url = f"tcp://127.0.0.1:{free_ports()}"
    done = run("spool", "drain", "--connect", url, "--spool", str(tmp_path), "--timeout", "1")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"telefabric: 1 spool in {tmp_path} not delivered: ")
    assert f"; 1 spool cannot be read: {bad}: " in last
