"""What the doctor says of what was seen: its verdicts are functions, and need no machine that is broken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import telefabric
from telefabric import __version__
from telefabric.address import DEFAULT, Address, ClientKeys
from telefabric.broker import sockets
from telefabric.broker.core.hops import Hop
from telefabric.doctor import broker as on_broker
from telefabric.doctor import installation, machine, ports, service, settings, storefile, streams
from telefabric.doctor.broker import BrokerSeen
from telefabric.doctor.finding import OK, PROBLEM, SAYINGS, WARNING, Finding
from telefabric.doctor.machine import FolderSeen
from telefabric.doctor.ports import Answer, NameSeen, PortSeen
from telefabric.doctor.service import LiveSeen
from telefabric.doctor.settings import SettingsSeen
from telefabric.doctor.storefile import StoreOpenSeen
from telefabric.peer.core.clock import Clock
from telefabric.peer.requests import nobody_at
from telefabric.store.file import database
from telefabric.wire.control import Endpoints

FABRIC = Path(telefabric.__file__).parent
LAB = Address("lab", 7750)
NAMED = {"data": 7751, "live": 7752, "durable": 7753, "queries": 7754, "tap": 7755, "watch": 7756}
HERE = Address.parse(DEFAULT)
LDD = """\
/venv/PySide6/QtGui.abi3.so:
\tlinux-vdso.so.1 (0x00007fd7f2d7a000)
\tlibQt6Gui.so.6 => /venv/PySide6/Qt/lib/libQt6Gui.so.6 (0x00007fd7f2d53000)
\tlibEGL.so.1 => not found
/venv/PySide6/Qt/plugins/platforms/libqxcb.so:
\tlibxcb-cursor.so.0 => not found
\tlibEGL.so.1 => not found
\tlibstrange.so.9 => not found
"""
MOUNTS = """\
/dev/vda / ext4 rw 0 0
tmpfs /tmp tmpfs rw 0 0
nas:/home /home nfs4 rw 0 0
/dev/sdb /home/ada/fast\\040disk xfs rw 0 0
"""


def test_versions_that_lose_data_or_crash_are_problems() -> None:
    assert installation.SQLITE_MIN == database.SQLITE_MIN
    assert installation.judge_python((3, 10, 4)).state == PROBLEM
    assert installation.judge_zmq("26.0", (4, 3, 4)).state == PROBLEM
    assert installation.judge_sqlite("3.50", (3, 50, 4)).remedy == "pip install -U apsw"
    assert installation.judge_sqlite(None, ()).state == WARNING
    assert installation.judge_qt("6.12.0", (3, 11, 7), []).state == PROBLEM
    assert installation.judge_qt("6.12.0", (3, 12, 1), []).state == OK
    assert installation.judge_qt("6.11.3", (3, 11, 7), []).state == OK
    assert installation.judge_qt(None, (3, 11, 7), None).state == OK
    assert installation.judge_others({"msgspec": None, "msgpack": "1"}).state == PROBLEM


def test_what_qt_misses_is_named_with_the_packages_that_bring_it() -> None:
    missing = installation.missing_libraries(LDD)
    assert missing == ["libEGL.so.1", "libstrange.so.9", "libxcb-cursor.so.0"]
    found = installation.judge_qt("6.11.3", (3, 12, 1), missing)
    assert found.state == WARNING
    assert found.remedy == "sudo apt-get install libegl1 libxcb-cursor0; install what brings libstrange.so.9"
    packages = {"libegl1", "libgl1", "libxkbcommon-x11-0", "libxcb-cursor0", "libdbus-1-3", "libfontconfig1"}
    assert packages <= set(installation.DEBIAN_PACKAGES.values())


def test_rings_that_vanish_at_logout_are_told_only_where_they_do() -> None:
    assert machine.removes_ipc("[Login]\n#RemoveIPC=yes\n")
    assert machine.removes_ipc("[Login]\nRemoveIPC=no\n[Login]\nRemoveIPC = yes\n")
    assert not machine.removes_ipc("[Login]\nRemoveIPC=no\n")
    assert machine.judge_logout(False) is None
    found = machine.judge_logout(True)
    assert found is not None
    assert (found.state, found.remedy) == (WARNING, "loginctl enable-linger")


def test_few_open_files_are_told_as_workers() -> None:
    assert machine.judge_open_files(20_000).state == OK
    few = machine.judge_open_files(1_024)
    assert few.state == WARNING
    assert "254 workers" in few.sentence
    assert "to 3260: LimitNOFILE" in few.remedy
    assert machine.judge_open_files(64).state == PROBLEM


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/var/lib", "ext4"), ("/tmp/x", "tmpfs"), ("/home/ada", "nfs4"), ("/home/ada/fast disk/store", "xfs"),
        ("/homestead", "ext4"),
    ],
)  # fmt: skip
def test_the_file_system_is_that_of_the_longest_mount(path: str, expected: str) -> None:
    assert machine.file_system_of(Path(path), MOUNTS) == expected


def test_folders_on_a_network_or_a_full_disk_are_problems() -> None:
    def state(free: int, kind: str) -> str:
        return machine.judge_folder("data folder", "TELEFABRIC_DATA", FolderSeen(Path("/x"), "", free, kind)).state

    assert state(10**12, "ext4") == OK
    assert state(10**12, "nfs4") == PROBLEM
    assert state(10**9, "ext4") == WARNING
    assert state(10**7, "ext4") == PROBLEM


def test_a_log_that_a_reader_holds_is_a_warning() -> None:
    assert f"{database.FILE_NAME}-wal" == storefile.STORE_LOG
    log = Path("/data") / storefile.STORE_LOG
    assert storefile.judge_store_log(log, 0) is storefile.judge_store_log(log, 256 << 20) is None
    held = storefile.judge_store_log(log, 300 << 20)
    assert held is not None
    assert (held.state, held.remedy.split()[:2]) == (WARNING, ["lsof", str(log)])


def told(finding: Finding | None) -> Finding:
    """A row, of which each has one sentence, and a remedy unless it is fine."""
    assert finding is not None
    assert finding.sentence.endswith(".")
    assert bool(finding.remedy) == (finding.state != OK)
    return finding


def test_ports_and_the_store_are_named_as_the_services_have_them() -> None:
    assert (storefile.APPLICATION_ID, storefile.VERSION) == (database.APPLICATION_ID, database.VERSION)
    names = ("data", "live", "durable", "tap", "watch")
    offsets = {getattr(sockets, name.upper()).offset: name for name in names}
    assert offsets.items() <= ports.PORTS.items()


def test_whoever_holds_the_file_of_an_absent_store_is_to_go_on_or_to_end() -> None:
    path = Path("/data/telemetry.sqlite")
    running = StoreOpenSeen("process 12, telefabric", {})
    assert storefile.judge_holder(path, StoreOpenSeen(None, {})) == ""
    assert "ps -fp 12 shows its broker" in storefile.judge_holder(path, running)
    assert storefile.judge_holder(path, running._replace(is_stopped=True)).startswith("kill -CONT 12 wakes the store")
    for attached in (True, False, None):
        stopped = told(storefile.judge_store_open(path, running._replace(is_stopped=True), attached))
        assert (stopped.state, "is stopped" in stopped.sentence) == (WARNING, True)


def test_shared_memory_and_socket_buffers() -> None:
    assert told(machine.judge_shm(None)).state == told(machine.judge_shm(64 << 20)).state == WARNING
    assert told(machine.judge_shm(1 << 30)).state == OK
    assert told(machine.judge_socket_buffers(4 << 20, 4 << 20)).state == OK
    low = told(machine.judge_socket_buffers(212_992, 4 << 20))
    assert (low.state, low.remedy) == (WARNING, "sudo sysctl -w net.core.rmem_max=4194304")
    assert machine.judge_socket_buffers(None, None) is None


def test_ports_that_the_system_gives_away_are_told() -> None:
    assert machine.judge_ports_of_others(HERE, 32_768, 60_999) is None
    assert told(machine.judge_ports_of_others(Address("127.0.0.1", 40_000), 32_768, 60_999)).state == WARNING
    assert told(machine.judge_ports_of_others(Address("127.0.0.1", 32_765), 32_768, 60_999)).state == WARNING


def test_a_clock_that_nothing_keeps_matters_between_machines() -> None:
    assert told(machine.judge_time("tsc", False, alone=True)).state == OK
    assert told(machine.judge_time("tsc", False, alone=False)).state == WARNING
    assert told(machine.judge_time("tsc", True, alone=False)).state == OK
    assert told(machine.judge_time("hpet", True, alone=True)).state == WARNING
    assert machine.judge_time("", None, alone=False) is None


def test_a_session_without_a_display_opens_no_window() -> None:
    assert installation.judge_display(None, "linux", {}) is None
    assert installation.judge_display("6.11.3", "win32", {}) is None
    assert told(installation.judge_display("6.11.3", "linux", {"DISPLAY": ""})).state == WARNING
    assert told(installation.judge_display("6.11.3", "linux", {"WAYLAND_DISPLAY": "wayland-0"})).state == OK


def test_settings_that_cannot_be_read_or_are_none() -> None:
    assert told(*settings.judge_settings(SettingsSeen({}, (), ()))).state == OK
    assert (
        "connect (environment)"
        in told(*settings.judge_settings(SettingsSeen({"connect": "environment"}, (), ()))).sentence
    )
    typo = told(*settings.judge_settings(SettingsSeen({}, (), ("TELEFABRIC_CONECT",))))
    assert (typo.state, typo.remedy) == (WARNING, "unset TELEFABRIC_CONECT, and export TELEFABRIC_CONNECT")


# -- the way to a broker -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("answer", "word", "remedy"),
    [
        (Answer.REFUSED, "refuses", "ssh -N -L 7750:127.0.0.1:7750 -L 7751:127.0.0.1:7751"),
        (Answer.NO_ROUTE, "No network route", "ping lab"),
        (Answer.TIMEOUT, "firewall", "-L 7756:127.0.0.1:7756 USER@lab"),
        (Answer.SILENT, "says nothing", "On lab: ss -ltnp"),
        (Answer.CLOSED, "closes them at once", "telefabric up, on the machine that the tunnel leads to"),
        (Answer.STRANGER, "SSH-2.0", "Correct --connect"),
        (Answer.ZEROMQ, "does not answer as a broker", "Name the broker's own port"),
    ],
)
def test_each_way_of_not_being_a_broker_has_its_sentence_and_remedy(answer: Answer, word: str, remedy: str) -> None:
    found = told(on_broker.judge_broker(LAB, BrokerSeen(None, port=PortSeen(answer, "'SSH-2.0'"))))
    assert found.state == PROBLEM
    assert word.lower() in found.sentence.lower()
    assert remedy in found.remedy


def test_nobody_on_this_machine_is_only_a_broker_that_is_not_started() -> None:
    refused = PortSeen(Answer.REFUSED)
    assert told(on_broker.judge_broker(HERE, BrokerSeen(None, port=refused, taken={}))).remedy == "telefabric up"
    foreign = BrokerSeen(None, port=PortSeen(Answer.ZEROMQ), foreign="a control message fails its checksum")
    assert told(on_broker.judge_broker(HERE, foreign)).remedy.startswith("pip install -U telefabric, on both machines")


def test_a_broker_is_started_at_the_port_that_is_asked_for() -> None:
    refused = BrokerSeen(None, port=PortSeen(Answer.REFUSED))
    there = told(on_broker.judge_broker(LAB._replace(port=9000), refused)).remedy
    assert "start telefabric up --listen tcp://127.0.0.1:9000 there, and forward its ports: ssh -N -L 9000:" in there
    keys = ClientKeys("server", "public", "secret")
    with_keys = told(on_broker.judge_broker(LAB._replace(port=9000, keys=keys), refused)).remedy
    assert with_keys.startswith("Start telefabric up --listen 'tcp://*:9000' there. ")
    here = HERE._replace(port=9000)
    assert nobody_at(here).endswith("Start one with: telefabric up --listen tcp://127.0.0.1:9000")
    assert nobody_at(HERE).endswith("Start one with: telefabric up")
    for elsewhere in (LAB, here._replace(keys=keys)):
        assert "telefabric up" not in nobody_at(elsewhere), "a broker that is started here does not help"


def test_names() -> None:
    assert ports.judge_name("127.0.0.1", NameSeen(("127.0.0.1",))) is None
    assert told(ports.judge_name("lab", NameSeen(("10.0.0.5",)))).state == OK
    assert told(ports.judge_name("lab", NameSeen((), "Name or service not known"))).state == PROBLEM
    ipv6 = told(ports.judge_name("[::1]", NameSeen((), "it has an IPv6 address only")))
    assert (ipv6.state, "127.0.0.1" in ipv6.remedy, "getent" in ipv6.remedy) == (PROBLEM, True, False)


def test_ports_that_are_not_forwarded_are_named_with_the_line_that_forwards_all() -> None:
    seen = dict.fromkeys(NAMED, PortSeen(Answer.ZEROMQ))
    assert told(ports.judge_ports(HERE, NAMED, seen)).state == OK
    only_tap = told(ports.judge_ports(HERE, NAMED, {**seen, "tap": PortSeen(Answer.REFUSED)}))
    assert (only_tap.state, "refused 7755 (tap)" in only_tap.sentence) == (WARNING, True)
    some = {
        **seen,
        "watch": PortSeen(Answer.CLOSED),
        "data": PortSeen(Answer.CLOSED),
        "queries": PortSeen(Answer.TIMEOUT),
    }
    found = told(ports.judge_ports(Address("127.0.0.1", 9000), NAMED, some))
    assert found.state == PROBLEM
    assert "closed at once 7751 (data), 7756 (watch); no answer from 7754 (queries)" in found.sentence
    forwards = " ".join(f"-L {port}:127.0.0.1:{port}" for port in NAMED.values())
    assert f"ssh -N -L 9000:127.0.0.1:7750 {forwards} USER@HOST" in found.remedy
    assert f"USER@lab, and then here: --connect {DEFAULT}" in ports.judge_ports(LAB, NAMED, some).remedy


def test_a_silent_port_of_this_machine_is_its_process_and_one_of_a_tunnel_the_tunnel() -> None:
    seen = {**dict.fromkeys(NAMED, PortSeen(Answer.ZEROMQ)), "queries": PortSeen(Answer.SILENT)}
    woken = told(ports.judge_ports(HERE, NAMED, seen, {7754: "process 12, telefabric"}))
    assert (woken.state, "kill -CONT 12 " in woken.remedy, "ssh" in woken.remedy) == (PROBLEM, True, False)
    for owners in (
        {7754: "process 12, ssh"},
        {7754: "a process of another user"},
        {},
        {7755: "process 12, telefabric"},
    ):
        assert "ssh -N" in told(ports.judge_ports(HERE, NAMED, seen, owners)).remedy
    two = {**seen, "tap": PortSeen(Answer.REFUSED)}
    assert "ssh -N" in told(ports.judge_ports(HERE, NAMED, two, {7754: "process 12, telefabric"})).remedy


def test_other_ports_are_proposed_only_when_they_are_known_to_be_free() -> None:
    taken = BrokerSeen(None, port=PortSeen(Answer.REFUSED), taken={7753: "process 12, python"}, free=7790)
    assert told(on_broker.judge_broker(HERE, taken)).remedy.endswith("telefabric up --listen tcp://127.0.0.1:7790")
    unknown = taken._replace(free=None)
    assert told(on_broker.judge_broker(HERE, unknown)).remedy.endswith("telefabric up --listen tcp://127.0.0.1:PORT")


def test_versions_of_broker_and_program() -> None:
    assert told(on_broker.judge_version({"version": __version__})).state == OK
    older, newer = (told(on_broker.judge_version({"version": version})) for version in ("0.0.1", "99.0"))
    assert (older.state, "older" in older.sentence, "where the broker runs" in older.remedy) == (WARNING, True, True)
    assert (newer.state, "newer" in newer.sentence, newer.remedy) == (WARNING, True, "pip install -U telefabric, here")


# -- what a broker does ------------------------------------------------------------------------------------------
def test_a_store_that_is_absent_has_no_queries_or_is_slow() -> None:
    without = {"absent": [], "durable": [{"name": "store", "quarantined_events": 3}]}
    assert told(service.judge_store(HERE, without, Endpoints("*:1", "*:2"))).state == WARNING
    assert told(service.judge_store(HERE, without, Endpoints("*:1", "*:2", "*:7754"))).state == OK
    assert told(service.judge_store(HERE, {"absent": ["store"]}, None)).state == PROBLEM
    both = told(service.judge_store(HERE, {"absent": ["store", "returns"]}, None, "kill -CONT 12 wakes the store"))
    assert both.remedy.startswith("kill -CONT 12 wakes the store; start the program that subscribes as returns")
    assert "3 events" in told(service.judge_quarantine(HERE, without)).sentence
    assert service.judge_quarantine(HERE, {"durable": [{"name": "store"}]}) is None
    assert told(service.judge_queries(HERE, 0.002)).state == OK
    assert told(service.judge_queries(HERE, 2.0)).state == WARNING
    assert told(service.judge_queries(HERE, None)).state == PROBLEM


def test_the_live_path_by_its_tick_or_its_refusal() -> None:
    assert told(service.judge_live(HERE, LiveSeen(1.0))).state == OK
    assert told(service.judge_live(HERE, LiveSeen(None))).state == told(service.judge_live(HERE, None)).state == PROBLEM
    older = told(
        service.judge_live(HERE, LiveSeen(None, False, "this broker speaks protocol 2, not 1: install one version"))
    )
    newer = told(
        service.judge_live(HERE, LiveSeen(None, False, "this broker speaks protocol 0, not 1: install one version"))
    )
    assert (older.state, older.remedy) == (PROBLEM, "pip install -U telefabric, here")
    assert "where the broker runs" in newer.remedy
    assert (
        told(service.judge_live(HERE, LiveSeen(None, False, "its limit of 64 live subscribers: close one"))).state
        == WARNING
    )


def test_clocks_and_round_trips_are_judged() -> None:
    def rows(offset_ns: int, round_trip_ns: int) -> list[Finding]:
        return [told(row) for row in service.judge_clock(LAB, Clock(offset_ns, round_trip_ns))]

    assert [row.state for row in rows(2_000_000, 1_000_000)] == [OK, OK]
    assert "2.5 s behind" in rows(2_500_000_000, 1_000_000)[0].sentence
    assert "3.0 s ahead" in rows(-3_000_000_000, 1_000_000)[0].sentence
    assert rows(1_500_000_000, 2_000_000_000)[0].state == OK, "a round trip of 2 s does not tell 1.5 s"
    assert [row.state for row in rows(0, 400_000_000)] == [OK, WARNING]
    assert told(*service.judge_clock(LAB, None)).state == WARNING


def stream(**changes: Any) -> dict[str, Any]:
    return {
        "run_id": "run", "worker_id": "ada-1", "host": "ada", "state": "running", "silent_s": 0.2, "first_behind": None,
        "clock_offset_ms": 0.4, "round_trip_ms": 0.2, "hops": [], **changes,
    }  # fmt: skip


def test_streams_that_are_behind_are_told_by_hop_with_what_to_look_at() -> None:
    assert streams.judge_streams(HERE, {"streams": []}) == []
    assert told(*streams.judge_streams(HERE, {"streams": [stream(), stream(state="idle")]})).state == OK
    hops = [list(Hop("store", "durable", 10, 90, 7.0)), list(Hop("window", "live", 10, 50, 4.0))]
    found = streams.judge_streams(
        HERE,
        {
            "streams": [
                stream(), stream(first_behind="store", hops=hops), stream(first_behind="store", hops=hops),
                stream(first_behind="window", hops=hops), stream(first_behind="broker", host=None),
                stream(state="stalled", silent_s=12.3),
            ]
        },
    )  # fmt: skip
    rows = {told(one).check: one for one in found}
    assert list(rows) == ["streams: store", "streams: window", "streams: broker", "streams: worker"]
    assert "2 of 6 streams behind at store, by 180 events, for up to 7 s: run/ada-1" in rows["streams: store"].sentence
    assert "iostat" in rows["streams: store"].remedy
    assert "Close window" in rows["streams: window"].remedy
    assert "on its machine" in rows["streams: broker"].remedy
    assert "For 12 s nothing was heard of 1 of 6 streams" in rows["streams: worker"].sentence
    assert {one.state for one in found} == {WARNING}


def test_streams_that_wait_for_an_absent_store_need_one() -> None:
    status = {"absent": ["store"], "streams": [stream(state="waiting", first_behind="store")]}
    assert told(*streams.judge_streams(HERE, status)).remedy == f"telefabric store --connect {DEFAULT}"


def test_a_status_of_another_version_is_judged_by_what_it_tells() -> None:
    bare = {"streams": [{"run_id": "run", "worker_id": "ada-1"}, {"run_id": "run", "worker_id": "ada-2"}]}
    assert told(*streams.judge_streams(HERE, bare)).state == OK
    assert streams.judge_worker_clocks(bare) is None
    more = stream(first_behind="store", hops=[[*Hop("store", "durable", 10, 90, 7.0), "what is new"]])
    assert "by 90 events" in told(*streams.judge_streams(HERE, {"streams": [more]})).sentence
    assert told(*streams.judge_refusals(HERE, {})).state == OK


def test_the_worker_whose_clock_or_way_is_worst_is_named() -> None:
    assert streams.judge_worker_clocks({"streams": [stream(clock_offset_ms=None, round_trip_ms=None)]}) is None
    assert (
        "of 1 worker are within 0.4 ms" in told(streams.judge_worker_clocks({"streams": [stream(), stream()]})).sentence
    )
    off = told(
        streams.judge_worker_clocks({"streams": [stream(), stream(worker_id="bob-2", clock_offset_ms=-4_000.0)]})
    )
    assert (off.state, "bob-2 is 4.0 s ahead" in off.sentence, off.remedy.endswith("on ada")) == (WARNING, True, True)
    assert told(streams.judge_worker_clocks({"streams": [stream(round_trip_ms=900.0)]})).state == WARNING


def test_refusals_are_told_in_words_and_what_a_restart_leaves_is_none() -> None:
    assert told(*streams.judge_refusals(HERE, {"dropped": {}, "live_dropped": {}})).state == OK
    usual = told(*streams.judge_refusals(HERE, {"dropped": {"stale": 7}}))
    assert (usual.state, "7" in usual.sentence) == (OK, True)
    found = streams.judge_refusals(
        HERE, {"dropped": {"damaged": 2, "stale": 1}, "live_dropped": {"damaged": 1, "new": 4}}
    )
    assert [told(one).check for one in found] == ["refusals: damaged", "refusals: new", "refusals"]
    assert found[0].sentence.startswith("Refused 3 times since the broker's start: a message failed its checksum")


def test_every_reason_that_a_broker_counts_has_its_words() -> None:
    reasons: set[str] = set()
    for folder in ("broker", "wire"):
        for file in (FABRIC / folder).rglob("*.py"):
            text = file.read_text()
            reasons.update(re.findall(r'(?:\bdropped\[|_refuse\(peer, |nonsense=)"(\w+)"', text))
            reasons.update(re.findall(r'WireError\("(\w+)"', text))
    assert {"over_credit", "unknown_token", "damaged", "bad_subscription", "protocol"} <= reasons
    assert reasons - {"bad_delivery"} <= set(SAYINGS["refused"]) | set(streams.USUAL)
