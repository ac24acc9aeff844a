"""`telefabric import tensorboard`: event files become runs, once, whatever happens to the files and to the import."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from eventfiles import append, event, field, record, scalar, shape, tensor, version, write
from processes import TELEFABRIC, wait_for
from slowness import patience
from store_fixtures import LOOPBACK

from telefabric import StoredEvent, TelefabricError, ask_edit, open_store
from telefabric.service.embedded import Services
from telefabric.store.file.verify import verify
from telefabric.store.read.remote_reader import RemoteReader
from telefabric_schemas import Log, Metric, values
from telefabric_schemas.decoding import decode_event
from telefabric_workers.environment import WorkerEnvironment
from telefabric_workers.imports.command import importing
from telefabric_workers.imports.filestream import FileStream
from telefabric_workers.imports.tensorboard import command
from telefabric_workers.imports.tensorboard.events import Reader
from telefabric_workers.imports.tensorboard.records import Damaged, Tail, masked

T0 = 1_700_000_000.25


@pytest.fixture(scope="module")
def services(ring_folder: str) -> Iterator[Services]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TELEFABRIC_RING", ring_folder)  # where edits are taken
        yield from _services()


def _services() -> Iterator[Services]:
    with tempfile.TemporaryDirectory(prefix="tf-") as folder, Services(LOOPBACK, Path(folder), log_level="error") as up:
        yield up


class Desk:
    """Imports a folder into the store of the services."""

    def __init__(self, services: Services, folder: Path, prefix: str) -> None:
        self.services, self.folder, self.prefix = services, folder, prefix
        self.arguments = ["tensorboard", str(folder), "--connect", services.address.url, "--prefix", prefix, "--json"]
        self.spool = folder.parent / "spool"

    def run(self, *more: str) -> dict[str, Any]:
        """What the command reports, by the names of the folders."""
        result = CliRunner().invoke(importing, [*self.arguments, "--spool", str(self.spool), *more])
        if isinstance(result.exception, TelefabricError):
            raise result.exception
        assert result.exit_code == 0, result.output
        self.stderr = result.stderr
        report: dict[str, Any] = json.loads(result.stdout)
        return {**report, "runs": {run.removeprefix(self.prefix): counts for run, counts in report["runs"].items()}}

    def follow(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*TELEFABRIC, "import", *self.arguments, "--spool", str(self.spool), "--follow"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def rows(self, run: str) -> list[StoredEvent]:
        with open_store(self.services.file) as reader:
            page = reader.events(0, self.prefix + run)
            rows = page.rows
            while page.more:
                page = reader.events(page.last, self.prefix + run)
                rows += page.rows
            return rows

    def metrics(self, run: str, name: str) -> list[Metric]:
        found = (decode_event(row.event) for row in self.rows(run) if row.kind == "metric")
        return [one for one in found if isinstance(one, Metric) and one.name == name]

    def logs(self, run: str) -> list[Log]:
        found = (decode_event(row.event) for row in self.rows(run) if row.kind == "log")
        return [one for one in found if isinstance(one, Log)]


@pytest.fixture
def desk(services: Services, tmp_path: Path, request: pytest.FixtureRequest) -> Desk:
    return Desk(services, tmp_path / "runs", f"{request.node.name}/")


def numbered(first: int, last: int, time_s: float = T0) -> list[bytes]:
    """A record for each step, whose value is that of the step."""
    return [event(time_s + step, step, scalar("loss", step)) for step in range(first, last + 1)]


# -- files of a real writer --------------------------------------------------------------------------------------
def test_what_tensorboardx_wrote_is_a_run_for_each_folder_once(desk: Desk) -> None:
    tensorboardX = pytest.importorskip("tensorboardX")
    for seed in range(2):
        with tensorboardX.SummaryWriter(str(desk.folder / "ppo" / f"seed{seed}")) as writer:
            for step in range(50):
                writer.add_scalar("charts/episodic_return", step * 2.0, step, walltime=T0 + step)
            writer.add_scalar("losses/value", math.nan, 50, walltime=T0 + 50)
            writer.add_text("hyperparameters", "|seed|\n|-|\n|1|", 0, walltime=T0)
            writer.add_histogram("weights", [1.0, 2.0, 3.0], 0)
            writer.add_custom_scalars({"both": {"losses": ["Multiline", ["losses/value"]]}})
    report = desk.run()
    assert report["runs"] == {f"ppo/seed{seed}": {"metric": 51, "log": 1} for seed in range(2)}
    assert report["left_out"] == {"histograms": 2, "custom_scalars": 2}
    found = desk.metrics("ppo/seed1", "charts/episodic_return")
    assert [(one.global_step, one.value) for one in found] == [(step, step * 2.0) for step in range(50)]
    assert [one.time_ns for one in found] == [round((T0 + step) * 1e6) * 1_000 for step in range(50)]
    (text,) = desk.logs("ppo/seed1")
    assert (text.logger, text.message) == ("hyperparameters/text_summary", "|seed|\n|-|\n|1|")
    assert values.decode(text.fields) == {"global_step": 0}
    before = desk.rows("ppo/seed0"), desk.rows("ppo/seed1")
    assert desk.run()["runs"] == {"ppo/seed0": {}, "ppo/seed1": {}}, "a second import adds nothing"
    assert (desk.rows("ppo/seed0"), desk.rows("ppo/seed1")) == before
    with open_store(desk.services.file) as reader:
        run = reader.run(desk.prefix + "ppo/seed1")
        assert run is not None
        assert (run.status, run.started_ns) == ("completed", reader.streams(run.run_id)[0].started_ns)
    assert verify(desk.services.file).contradictions == 0


# -- records -----------------------------------------------------------------------------------------------------
def test_a_record_is_read_when_it_is_whole_wherever_the_file_ended_before(tmp_path: Path) -> None:
    data = b"".join(map(record, [version(T0), *numbered(0, 3)]))
    path = tmp_path / "events.out.tfevents.1"
    path.write_bytes(b"")
    tail, found = Tail(path), []
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        found += list(tail.records())
        assert tail.offset + tail.torn_bytes == size
    assert found == [version(T0), *numbered(0, 3)]


def test_crc32c_is_that_of_the_format() -> None:
    assert masked(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_a_flipped_bit_ends_a_file_with_a_sentence_until_it_is_whole(desk: Desk) -> None:
    path = write(desk.folder / "a" / "events.out.tfevents.1", version(T0), *numbered(0, 9))
    whole = path.read_bytes()
    at = whole.index(record(numbered(5, 5)[0])) + 14
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    assert desk.run()["runs"] == {"a": {"metric": 5}}
    assert "is damaged at byte" in desk.stderr
    path.write_bytes(whole)
    assert desk.run()["runs"] == {"a": {"metric": 5}}
    assert [one.value for one in desk.metrics("a", "loss")] == list(range(10))


def test_a_damaged_record_is_looked_at_again(tmp_path: Path) -> None:
    path = write(tmp_path / "tfevents", version(T0), *numbered(0, 1))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\0")
    tail = Tail(path)
    found = []
    for _ in range(2):
        with pytest.raises(Damaged, match=r"damaged at byte"):
            found += tail.records()
    path.write_bytes(whole)
    assert list(tail.records())[-1] == numbered(1, 1)[0]


def test_whatever_the_bytes_of_a_record_are_its_reader_goes_on() -> None:
    chance, reader = random.Random(7), Reader()
    good = event(T0, 1, scalar("a", 1.0), tensor("b", "text", field(1, 7), field(8, b"hello")))
    for _ in range(3_000):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        reader.values(bytes(data[: chance.randrange(len(data) + 1)]))
    assert [value.content for value in reader.values(good)] == [1.0, "hello"]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((field(1, 1), shape(), field(4, struct.pack("<f", 2.5))), 2.5),
        ((field(1, 2), shape(), field(6, struct.pack("<d", 2.5))), 2.5),
        ((field(1, 9), shape(), field(10, b"\xfd\xff\xff\xff\xff\xff\xff\xff\xff\x01")), -3.0),
        ((field(1, 3), shape(), field(7, 4)), 4.0),
        ((field(1, 19), shape(), field(13, 0x4100)), 2.5),
        ((field(1, 14), shape(), field(4, struct.pack("<H", 0x4020))), 2.5),
        ((field(1, 1), shape()), 0.0),
        ((field(1, 1), shape(2, 2), field(4, struct.pack("<4f", 1, 2, 3, 4))), [1, 2, 3, 4]),
        ((field(1, 1), shape(3), field(5, struct.pack("<f", 1.5))), [1.5, 1.5, 1.5]),
        ((field(1, 7), shape(2), field(8, b"first"), field(8, "zweite ü".encode())), "first\nzweite ü"),
    ],
)
def test_tensors_of_all_forms_are_read(parts: tuple[bytes, ...], expected: object) -> None:
    (value,) = Reader().values(event(T0, 3, tensor("t", "", *parts)))
    assert value.content == expected


def test_a_tag_s_plugin_holds_for_its_later_values_and_pictures_are_counted() -> None:
    reader = Reader()
    first = tensor("h", "histograms", field(1, 2), shape(1, 3), field(4, struct.pack("<3d", 0, 1, 2)))
    later = tensor("h", "", field(1, 2), shape(1, 3), field(4, struct.pack("<3d", 0, 1, 2)))
    image = field(1, b"i") + field(4, field(1, 4))
    assert reader.values(event(T0, 0, first, later, image)) == []
    assert reader.left_out == Counter({"histograms": 2, "images": 1})


def test_a_few_bytes_cannot_claim_a_large_tensor() -> None:
    reader = Reader()
    assert reader.values(event(T0, 0, tensor("t", "", field(1, 1), shape(1 << 40), field(5, b"\0\0\0\0")))) == []
    assert reader.left_out == Counter({"tensors of type 1": 1})


# -- files that change -------------------------------------------------------------------------------------------
def test_a_torn_tail_waits_for_the_next_import(desk: Desk) -> None:
    path = write(desk.folder / "a" / "events.out.tfevents.1", version(T0), *numbered(0, 4))
    torn = record(numbered(5, 5)[0])
    with path.open("ab") as file:
        file.write(torn[:20])
    assert desk.run()["runs"] == {"a": {"metric": 5}}
    assert "ends with 20 bytes that are no whole record yet" in desk.stderr
    with path.open("ab") as file:
        file.write(torn[20:])
    append(path, *numbered(6, 7))
    assert desk.run()["runs"] == {"a": {"metric": 3}}
    assert [one.value for one in desk.metrics("a", "loss")] == list(range(8))
    assert verify(desk.services.file).contradictions == 0


def test_an_import_that_is_interrupted_ends_no_run_and_the_same_command_continues(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        write(desk.folder / name / "tfevents", version(T0), *numbered(0, 4))
    add, left = FileStream.add, iter(range(3))

    def adding(stream: FileStream, one: Any) -> bool:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return add(stream, one)

    with monkeypatch.context() as patch:
        patch.setattr(FileStream, "add", adding)
        result = CliRunner().invoke(importing, [*desk.arguments, "--spool", str(desk.spool)])
    assert "telefabric: interrupted: the same command continues\n" in result.stderr
    assert "no whole record" not in result.stderr
    with open_store(desk.services.file) as reader:
        assert [one.outcome for one in reader.streams(desk.prefix + "a")] == [None]
    assert desk.run()["runs"] == {"a": {"metric": 2}, "b": {"metric": 5}}
    with open_store(desk.services.file) as reader:
        assert [one.outcome for one in reader.streams(desk.prefix + "a")] == ["completed"]


def test_the_report_counts_in_words(desk: Desk) -> None:
    write(desk.folder / "a" / "tfevents")
    desk.arguments.remove("--json")
    arguments = [*desk.arguments, "--spool", str(desk.spool)]
    assert CliRunner().invoke(importing, arguments).stdout == "No record was read.\n"
    append(
        desk.folder / "a" / "tfevents",
        version(T0),
        *numbered(0, 0),
        event(T0, 0, field(1, b"i") + field(4, field(1, 4))),
    )
    assert CliRunner().invoke(importing, arguments).stdout == f"{desk.prefix}a: 1 metric\nLeft out: images (1)\n"


def test_a_restart_with_an_earlier_step_is_a_further_attempt_and_two_files_at_once_are_one(desk: Desk) -> None:
    write(desk.folder / "a" / "events.out.tfevents.1", version(T0), *numbered(0, 20))
    write(desk.folder / "a" / "events.out.tfevents.2", version(T0 + 100), *numbered(10, 15, T0 + 100))
    write(desk.folder / "b" / "events.out.tfevents.1", version(T0), *numbered(0, 2))
    write(desk.folder / "b" / "events.out.tfevents.1.eval", version(T0 + 1), event(T0 + 3, 2, scalar("eval", 1.0)))
    assert desk.run()["runs"] == {"a": {"metric": 27}, "b": {"metric": 4}}
    with open_store(desk.services.file) as reader:
        attempts = {run: [one.attempt for one in reader.streams(desk.prefix + run)] for run in ("a", "b")}
    assert attempts == {"a": [1, 2], "b": [1, 1]}


def test_a_replaced_file_is_another_stream_of_its_run(desk: Desk) -> None:
    path = write(desk.folder / "a" / "events.out.tfevents.1", version(T0), *numbered(0, 4))
    desk.run()
    shutil.copytree(desk.folder, desk.folder.parent / "elsewhere")
    write(path, version(T0 + 50), *numbered(0, 1, T0 + 50))
    assert desk.run()["runs"] == {"a": {"metric": 2}}
    elsewhere = Desk(desk.services, desk.folder.parent / "elsewhere", desk.prefix)
    assert elsewhere.run()["runs"] == {"a": {}}, "the same file at another place is the same stream"
    assert len(desk.metrics("a", "loss")) == 7


def test_a_run_that_was_deleted_stays_deleted_and_the_import_says_so(desk: Desk) -> None:
    write(desk.folder / "a" / "events.out.tfevents.1", version(T0), *numbered(0, 4))
    desk.run()
    ask_edit(desk.services.address, "delete", desk.prefix + "a")
    with pytest.raises(TelefabricError, match=r"was deleted from .* --prefix"):
        desk.run()


def test_a_folder_without_event_files_is_an_error(desk: Desk) -> None:
    desk.folder.mkdir()
    with pytest.raises(TelefabricError, match="no event files"):
        desk.run()
    desk.folder.rmdir()
    with pytest.raises(TelefabricError, match="there is no folder"):
        desk.run()


def test_of_many_files_that_are_followed_few_streams_are_open_and_each_goes_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "OPEN_MAX", 2)
    paths = [write(desk.folder / name / "tfevents", version(T0), *numbered(0, 0)) for name in "abcd"]
    read = WorkerEnvironment.read(connect=desk.services.address.url, spool=desk.spool, mode="durable")
    with RemoteReader(read.address) as reader:
        following = command.Import(desk.folder, desk.prefix, read, reader)
        following.once(follow=True)
        for step in range(1, 4):
            for path in paths:
                append(path, *numbered(step, step))
            following.look()
            assert len(list(desk.spool.iterdir())) <= 2
        os.utime(paths[-1], (T0, T0))
        following.look()
        assert len(list(desk.spool.iterdir())) == 1, "one that nobody writes has ended"
        following.end()
    for name in "abcd":
        assert [one.value for one in desk.metrics(name, "loss")] == [0, 1, 2, 3]
    assert verify(desk.services.file).contradictions == 0


# -- following, and being killed ---------------------------------------------------------------------------------
def test_what_is_appended_is_followed_and_a_kill_costs_and_doubles_nothing(desk: Desk) -> None:
    path = write(desk.folder / "a" / "events.out.tfevents.1", version(T0), *numbered(0, 9))
    known, chance = 10, random.Random(3)
    for _ in range(3):
        process = desk.follow()
        try:
            wait_for(lambda: len(desk.metrics("a", "loss")) >= known, "what was there is stored")  # noqa: B023
            for _ in range(3):
                append(path, *numbered(known, known + 99))
                known += 100
            kept = chance.randrange(known - 300, known)
            wait_for(lambda: len(desk.metrics("a", "loss")) >= kept, "some of the rest is stored")  # noqa: B023
        finally:
            process.kill()
            process.communicate()
    process = desk.follow()
    wait_for(lambda: len(desk.metrics("a", "loss")) >= known, "all is stored")
    later = write(desk.folder / "later" / "events.out.tfevents.1", version(T0), *numbered(0, 0))
    wait_for(lambda: desk.metrics("later", "loss"), "a run that begins while it follows")
    write(later.with_name("new"), version(T0 + 9), *numbered(7, 7)).rename(later)
    wait_for(lambda: len(desk.metrics("later", "loss")) == 2, "the file that took its place")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=patience(20))
    assert process.returncode == 130
    assert [one.value for one in desk.metrics("a", "loss")] == list(range(known))
    assert not list(desk.spool.iterdir())
    with open_store(desk.services.file) as reader:
        assert {run.status for run in reader.runs() if run.run_id.startswith(desk.prefix)} == {"completed"}
    assert verify(desk.services.file).contradictions == 0
