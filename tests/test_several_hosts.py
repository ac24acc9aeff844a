"""Several hosts with keys: cut, moved and restarted, and everything is stored once in both stores."""

from __future__ import annotations

from pathlib import Path

import hosts
import pytest
from lab import PUBLISHED, Lab, is_faultless
from skips import requires

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


def test_hosts_that_are_cut_off_moved_and_restarted_lose_nothing_and_the_client_goes_on(tmp_path: Path) -> None:
    with Lab(tmp_path) as lab:
        listening = lab.lab.host.listening()
        everywhere = {port for address, port in listening if not address.startswith("127.")}
        assert everywhere == set(PUBLISHED), "nothing else listens beyond loopback"
        lab.cut(["rig1", "archive", "desk"], CUT_S)
        lab.all_go_on()
        lab.move(["rig2", "archive", "desk"])
        lab.all_go_on()
        lab.restart()
        lab.all_go_on()
        lab.settle()
        report = lab.report()
    assert is_faultless(report), report
    assert report["lost_packets"] > 0
    assert report["client"]["link"] == "live"
    assert report["store"]["events"] == report["archive"]["events"] > 0
