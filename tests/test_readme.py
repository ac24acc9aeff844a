"""The documentation says what is there: its programs and commands run, its tables are those of the code.

The README and the pages that continue its tour are one session. Their Python blocks are files (the first line names
them) and their console blocks are typed in order, in an empty folder, with ports of their own; the output must have the
shape of the pasted one.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import apsw
import click
import pytest
from processes import free_ports
from skips import requires
from slowness import patience

from telefabric.settings import SETTINGS
from telefabric.store.file.database import MIGRATIONS

PROJECT = Path(__file__).resolve().parent.parent
README = PROJECT / "README.md"


def page(name: str) -> str:
    return (PROJECT / "docs" / f"{name}.md").read_text("utf-8") if README.exists() else ""


pytestmark = [requires("a checkout, with its documentation", README.exists()), pytest.mark.timeout(180)]
TEXT = README.read_text("utf-8") if README.exists() else ""
SESSION = TEXT + page("gymnasium") + page("offline") + page("run")
STORE = (PROJECT / "fabric" / "STORE.md").read_text("utf-8") if README.exists() else ""
PAGES = [*PROJECT.glob("*.md"), *PROJECT.glob("fabric/*.md"), *PROJECT.glob("docs/**/*.md")]

SCRIPT = "./scripts/demo"
WANDERING = (
    (r"\d\d:\d\d:\d\d\.\d{3}", "TIME"),
    (r"run-\d{8}-\d{6}-[0-9a-f]{4}", "RUN"),
    (r"[0-9a-f]{32}", "ID"),
    (r'("worker_id"|"host"):"[^"]*"', r"\1:NAME"),
    (r"tf1[\w-]+", "TICKET"),
    (r"/[^ ]*/(?=telemetry|ID|demo.png|keys;|connections/)", "FOLDER/"),
    (r"-?\d+(\.\d+)?", "N"),
    (r"terminated|truncated", "END"),
    (r" +", " "),
)
"""What differs from one session to the next."""


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def typed(block: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with what it is said to print."""
    found = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)
    assert found[0] == "", "a console block begins with a command"
    return list(zip(found[1::2], found[2::2], strict=True))


def shape(output: str) -> list[str]:
    for pattern, word in WANDERING:
        output = re.sub(pattern, word, output)
    return [line.rstrip() for line in output.splitlines()]


def rows(text: str, first_header: str) -> list[list[str]]:
    """The cells of the table whose header begins with this."""
    lines = text.partition(f"\n| {first_header} |")[2].splitlines()[2:]
    table = []
    for line in lines:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    assert table, f"there is no table with the header {first_header}"
    return table


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a user whose data folder is empty and whose broker has ports of its own."""
    url = f"tcp://127.0.0.1:{free_ports()}"
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "XDG_DATA_HOME": str(tmp_path / "share"),
        "TELEFABRIC_LISTEN": url,
        "TELEFABRIC_CONNECT": url,
    }


# -- the session -------------------------------------------------------------------------------------------------
def test_the_session_of_the_readme_goes_as_pasted(tmp_path: Path, environment: dict[str, str]) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    for block in blocks(SESSION, "python"):
        name = re.match(r"# (\w+\.py)\n", block)
        assert name, "a Python block begins with the name of its file"
        (folder / name[1]).write_text(block)
    commands = [command for block in blocks(SESSION, "console") for command in typed(block)]
    assert len(commands) > 5
    services: list[subprocess.Popen[str]] = []
    try:
        for command, pasted in commands:
            if command.split()[:2] == ["telefabric", "up"]:
                services.append(up(command, folder, environment))
                printed = services[-1].stdout.readline()  # type: ignore[union-attr]
            else:
                printed = ended(command, folder, environment)
            assert shape(printed) == shape(pasted), command
    finally:
        for service in services:
            service.send_signal(signal.SIGTERM)
        assert [service.wait(patience(30)) for service in services] == [0] * len(services)
        for service in services:
            service.stdout.close()  # type: ignore[union-attr]
    assert not list((tmp_path / "share" / "telefabric" / "spool").iterdir()), "everything was delivered"
    queries_of_the_store_page(tmp_path / "share" / "telefabric" / "telemetry.sqlite")


def up(command: str, folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        shlex.split(command), cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def ended(command: str, folder: Path, environment: dict[str, str]) -> str:
    """What a command prints, on either stream; it must succeed."""
    command = command.replace(SCRIPT, "telefabric demo")
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL, text=True, timeout=patience(90), check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}:\n{done.stdout}"
    return done.stdout


def queries_of_the_store_page(file: Path) -> None:
    """Every query of STORE.md runs against the store that the session has made, and finds something."""
    connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
    queries = [query for block in blocks(STORE, "sql") for query in block.split(";\n") if query.strip()]
    assert queries
    for query in queries:
        found = connection.execute(query).fetchall()
        assert found or "FROM gaps" in query or "'human'" in query, query
        if "'human'" in query:
            plan = connection.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
            assert "steps_by_control_mode" in plan[0][-1], plan
    connection.close()


def test_the_python_of_the_store_page_reads_a_store(tmp_path: Path, environment: dict[str, str]) -> None:
    ended("telefabric demo --episodes 20 --data .", tmp_path, environment)
    for block in blocks(STORE, "python"):
        (tmp_path / "read.py").write_text(block)
        assert ended("python read.py", tmp_path, environment)


@pytest.mark.parametrize("name", ["demo", "test"])
def test_the_two_commands_of_the_first_screen_are_there(name: str) -> None:
    assert f"./scripts/{name}" in TEXT[: TEXT.index("## ")]
    assert os.access(PROJECT / "scripts" / name, os.X_OK)


def test_the_demo_script_passes_its_options_on() -> None:
    assert (PROJECT / SCRIPT).read_text().rstrip().endswith('telefabric" demo "$@"')


# -- tables ------------------------------------------------------------------------------------------------------
def test_every_command_is_on_its_page_and_shows_an_example_in_its_help() -> None:
    documented = {row[0].strip("`") for row in rows(page("commands"), "command")}
    found = {}
    for point in entry_points(group="telefabric.commands"):
        found.update(leaves(f"telefabric {point.name}", point.load()))
    assert documented == set(found)
    for name, command in found.items():
        assert re.search(rf"^ +{name}\b", command.help or "", re.MULTILINE), f"{name} --help has no example"


def leaves(name: str, command: click.Command) -> dict[str, click.Command]:
    if not isinstance(command, click.Group):
        return {name: command}
    found = {leaf: one for sub, part in command.commands.items() for leaf, one in leaves(f"{name} {sub}", part).items()}
    return {name: command, **found} if command.invoke_without_command else found


def test_the_settings_are_those_of_the_code() -> None:
    expected = [
        [f"`{one.variable}`", "" if one.default is None else f"`{one.default}`", one.help] for one in SETTINGS.values()
    ]
    assert rows(page("settings"), "variable") == expected


def test_the_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert [row[0].strip("`") for row in rows(page("install"), "extra")] == list(project["optional-dependencies"])
    for needed in project["dependencies"]:
        assert re.match(r"\w+", needed)[0] in page("install").partition("```sh\npip")[2].partition("```")[0]  # type: ignore[index]


def test_the_store_page_has_every_table_and_column() -> None:
    connection = apsw.Connection(":memory:")
    for script in MIGRATIONS.values():
        connection.execute((PROJECT / "fabric/telefabric/store/file" / script).read_text())
    for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
        section = STORE.partition(f"\n### `{table}`")[2].partition("\n##")[0]
        assert section, f"STORE.md has no section on {table}"
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        assert [row[0].strip("`") for row in rows(section, "column")] == columns, table
    connection.close()


# -- references --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_what_a_page_refers_to_is_there(page: Path) -> None:
    text = page.read_text("utf-8")
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", prose):
        assert "://" in target or (page.parent / target).exists(), f"a link to {target}"
    for path, test in re.findall(r"(tests/\w+\.py)(?:::(\w+))?", text):
        assert (PROJECT / path).exists(), path
        assert not test or f"def {test}(" in (PROJECT / path).read_text(), f"{path}::{test}"
    for path in re.findall(r"`((?:fabric|workers|schemas|scripts|docs|gui)/[\w./*-]+)`", text):
        assert list(PROJECT.glob(path.rstrip("/"))), path
