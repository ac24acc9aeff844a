"""Several hosts with keys: cut, moved and restarted, and everything is stored once in both stores."""

from __future__ import annotations

import sys
from pathlib import Path

import hosts
import pytest
from lab import PORT, PUBLISHED, RUN, WORKERS, Lab, is_faultless
from skips import requires

from telefabric.store.file.database import open_reader

pytestmark = [requires(hosts.why_not() or "hosts", not hosts.why_not()), pytest.mark.timeout(240)]
CUT_S = 5.0
"""Longer than heartbeats may be missed; scripts/chaos_hosts takes 30 s."""
KNOCK = """
import socket, sys
for port in map(int, sys.argv[2:]):
    try:
        socket.create_connection((sys.argv[1], port), 0.3).close()
        print(port)
    except OSError:
        pass
"""


def only_the_published_ports_listen(lab: Lab) -> None:
    """Seen from inside, and from another host through a firewall that is open for all that listens."""
    listening = lab.lab.host.listening()
    assert {port for address, port in listening if not address.startswith("127.")} == set(PUBLISHED)
    knocked = [str(port) for port in sorted({port for _, port in listening} | {PORT + 5})]
    lab.lab.host.only_ports(list(map(int, knocked)))
    answered = lab.machines["desk"].host.run([sys.executable, "-S", "-c", KNOCK, lab.lab.host.address, *knocked])
    assert set(map(int, answered.stdout.split())) == set(PUBLISHED)
    lab.lab.host.only_ports(list(PUBLISHED))


def what_the_desk_is_told(lab: Lab) -> None:
    told = lab.machines["desk"].run("status", "--connect", "desk", code=1)
    assert "is the broker running there, and may this machine reach its ports?" in told


def test_hosts_that_are_cut_off_moved_and_restarted_lose_nothing_and_the_client_goes_on(tmp_path: Path) -> None:
    with Lab(tmp_path) as lab:
        only_the_published_ports_listen(lab)
        for name in ("desk", "rig1", "archive"):  # as the role of each may look
            lab.machines[name].run("doctor", "--connect", name)
        assert "dropped by the broker" not in lab.machines["desk"].run("status", "--connect", "desk")
        lab.cut(["rig1", "archive", "desk"], CUT_S, what_the_desk_is_told)
        lab.all_go_on()
        lab.move(["rig2", "archive", "desk"])
        lab.all_go_on()
        lab.move(["lab"])
        lab.all_go_on()
        lab.restart()
        lab.all_go_on()
        lab.settle()
        desk = lab.machines["desk"]
        desk.run("runs", "tag", RUN, "far", "--connect", "desk")
        assert len(desk.run("dump", "--connect", "desk", "--kind", "run_started").splitlines()) == len(WORKERS)
        for file in lab.files.values():
            connection = open_reader(file)
            assert "far" in str(connection.execute("SELECT tags FROM runs").get), file
            connection.close()
        report = lab.report()
    assert is_faultless(report), report
    assert report["lost_packets"] > 0
    assert report["client"]["link"] == "live"
    assert report["store"]["events"] == report["archive"]["events"] > 0
