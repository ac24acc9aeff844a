"""Every view open while broker, store, worker and clients are killed at random; `scripts/chaos_gui` goes on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import test_gui_window

pytestmark = [
    test_gui_window.pytestmark[0],
    pytest.mark.qt_log_ignore("This plugin does not support"),  # grabs of menus, said by the offscreen platform
]
if test_gui_window.THERE:
    from handover import Handover

    from telefabric_gui import theme

SEED = 19
RATE = 500.0
FAULTS = ("broker", "store", "worker", "spool overflows", "other client", "window")
"""The others are these together, or after one another."""


@pytest.mark.timeout(240)
def test_after_any_kills_all_is_what_the_store_has_and_no_hole_was_painted_as_stored(
    qtbot: Any, qapp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    theme.use(qapp, "dark")
    with Handover(tmp_path, SEED, RATE) as handover:
        for name in handover.choose.sample(FAULTS, len(FAULTS)):
            handover.happen(name)
        handover.finish()
        assert handover.compare() > 0
        witness = handover.witness
    assert not witness.wrong, witness.wrong[:5]
    assert {"stored", "live only", "missing"} <= witness.kinds
    assert witness.pictures > 50
