"""`telefabric service` with a real systemd, that of a user, in namespaces of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from processes import TELEFABRIC, free_ports
from skips import requires
from slowness import patience

SYSTEMD = Path("/lib/systemd/systemd")
APART = ["unshare", "--mount", "--pid", "--cgroup", "--fork", "--kill-child"]
SCRIPT = """
set -e
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system "$XDG_RUNTIME_DIR"
chmod 700 "$XDG_RUNTIME_DIR"
/lib/systemd/systemd --user &
until [ -S "$XDG_RUNTIME_DIR/systemd/private" ]; do sleep 0.1; done
telefabric() { "$PYTHON" -m telefabric.cli.main "$@"; }
process() { systemctl --user show telefabric-up --property=MainPID --value; }
telefabric service install up --user
echo "installed: $(telefabric service status)"
first=$(process)
kill -9 "$first"
until [ "$(process)" != "$first" ] && telefabric service status >/dev/null; do sleep 0.2; done
echo "killed: $(telefabric service status)"
systemctl --user stop telefabric-up
echo "stopped: $(telefabric service status || true)"
telefabric service uninstall up --user
echo "uninstalled: $(telefabric service status)"
"""


def can_stand_apart() -> bool:
    if os.geteuid() != 0 or not SYSTEMD.exists() or shutil.which("unshare") is None:
        return False
    tried = [*APART, "mount", "-t", "tmpfs", "tmpfs", "/run"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


@requires("systemd, and namespaces to run it in", can_stand_apart())
def test_a_service_of_a_user_is_installed_comes_back_when_it_is_killed_and_is_removed(tmp_path: Path) -> None:
    config, port = tmp_path / ".config", free_ports()
    (config / "telefabric").mkdir(parents=True)
    (config / "telefabric" / "telefabric.toml").write_text(f'listen = "tcp://127.0.0.1:{port}"\n')
    home = {
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": "/run/user/0",
        "PYTHON": TELEFABRIC[0],
        "PATH": os.environ["PATH"],
    }
    done = subprocess.run(
        [*APART, "bash", "-c", SCRIPT], env=home, capture_output=True, text=True, timeout=patience(60), check=False
    )
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": up" in line or ": No" in line)
    assert done.returncode == 0, done.stderr
    for what, restarts in (("installed", 0), ("killed", 1)):
        assert said[what].startswith("up (of the user)   active, running"), said
        assert f"restarts: {restarts}   listening at tcp://127.0.0.1:{port}" in said[what], said
    assert said["stopped"] == "up (of the user)   inactive, dead   no process   restarts: 1"
    assert said["uninstalled"].startswith("No service is installed")
    assert (tmp_path / ".local/share/telefabric/telemetry.sqlite").exists()
    assert not list((config / "systemd" / "user").rglob("*.service"))
