"""A release is of what is committed, and only when all that names it agrees."""

from __future__ import annotations

import runpy
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from skips import requires

from telefabric import __version__

PROJECT = Path(__file__).resolve().parent.parent
pytestmark = requires("a checkout with its history, and git", (PROJECT / ".git").exists() and bool(shutil.which("git")))
SECTION = f"## {__version__}, 2026-12-01"


def git(folder: Path, *words: str) -> None:
    author = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    subprocess.run(["git", "-C", str(folder), *author, *words], check=True, capture_output=True)


@pytest.fixture
def ready(tmp_path: Path) -> Path:
    """A small checkout that could be released."""
    project = tmp_path / "project"
    for name in ("scripts/release", "scripts/environment.sh", "pyproject.toml", "fabric/telefabric/__init__.py"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, project / name)
    (project / "CHANGELOG.md").write_text(f"# Changelog\n\n{SECTION}\n\n- All.\n")
    git(project, "init", "-q")
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "x")
    return project


def checked(project: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([project / "scripts/release", "--check"], capture_output=True, text=True, check=False)


def edit(name: str, before: str, after: str) -> Callable[[Path], None]:
    def change(project: Path) -> None:
        text = (project / name).read_text()
        assert before in text
        (project / name).write_text(text.replace(before, after))
        git(project, "commit", "-q", "-a", "-m", "y")

    return change


def test_what_could_be_released_is_fine(ready: Path) -> None:
    done = checked(ready)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda project: (project / "new").touch(), "there are changes that are not committed: git status"),
        (edit("pyproject.toml", f'"{__version__}"', '"9.9.9"'), f"telefabric/__init__.py {__version__}: make"),
        (edit("CHANGELOG.md", SECTION, "## Unreleased"), f"CHANGELOG.md has no section '## {__version__}, 20"),
        (lambda project: git(project, "tag", f"v{__version__}"), "is there already: raise the version"),
    ],
    ids=["uncommitted", "two versions", "no section", "a tag"],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(change: Callable[[Path], Any], sentence: str, ready: Path) -> None:
    change(ready)
    done = checked(ready)
    assert done.returncode == 1
    assert done.stderr.startswith("No release: ")
    assert sentence in done.stderr


def test_the_table_of_wheels_names_what_cannot_be_had() -> None:
    script = runpy.run_path(str(PROJECT / "scripts/check_wheels"))
    everywhere = {
        (machine, python): {script["name_of"](one): "1.0" for one in script["requirements"](extras)}
        for machine, (extras, _) in script["MACHINES"].items()
        for python in script["PYTHONS"]
    }
    assert script["missing"](everywhere) == []
    assert {"pyzmq", "apsw", "pyside6-essentials", "click"} <= set(everywhere["Windows", "3.14"])
    assert "gymnasium" not in everywhere["Windows", "3.14"], "a machine that only watches"
    del everywhere["Windows", "3.14"]["apsw"]
    assert script["missing"](everywhere) == [
        "apsw has no wheel for Python 3.14 on Windows: raise or lower its bound, or leave that out"
    ]
    row = next(line for line in script["table"](everywhere) if line.startswith("apsw"))
    assert "1.0 (3.11 12 13)" in row
