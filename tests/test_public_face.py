"""What other programs may rely on: the names of the two packages, and that they cost nothing until they are used."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from store_fixtures import Scribe

import telefabric
import telefabric_workers
from telefabric import EnvironmentProblem, UsageError, open_store
from telefabric.store.file.database import FILE_NAME

PROJECT = Path(__file__).parent.parent
DOCUMENTS = (PROJECT / "README.md", *sorted(PROJECT.glob("docs/*.md")), *sorted(PROJECT.glob("fabric/*.md")))
PUBLIC_MODULES = {
    "telefabric", "telefabric.feed", "telefabric.ring", "telefabric_schemas", "telefabric_workers",
    "telefabric_workers.integrations.gym", "telefabric_workers.integrations.pettingzoo",
    "telefabric_workers.integrations.sb3",
}  # fmt: skip
FACE = [
    "Address", "ClosedError", "DurableBatch", "DurableSubscription", "EnvironmentProblem", "LiveEvent",
    "LiveSubscription", "Page", "QueuePolicy", "Reader", "SpoolError", "SpoolFull", "StoreError", "StoredEvent",
    "TelefabricError", "Unreachable", "UsageError", "WireError", "ask_edit", "open_store", "parse_policy",
]  # fmt: skip


def test_the_names_of_the_two_packages_are_these() -> None:
    assert telefabric.__all__ == FACE
    assert telefabric_workers.__all__ == ["Worker", "WorkerEnvironment", "connect"]
    for package in (telefabric, telefabric_workers):
        assert set(package.__all__) <= set(dir(package))
        assert all(getattr(package, name).__name__ == name for name in package.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'telefabric' has no attribute 'Broker'"):
        telefabric.__getattr__("Broker")


def test_a_type_checker_sees_the_names_that_are_imported() -> None:
    tree = ast.parse(source_of(telefabric.__file__))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    home = {one.name: node.module for node in imports for one in node.names}
    home = {name: module for name, module in home.items() if module and module.startswith("telefabric.")}
    assert sorted(home) == FACE
    assert all(getattr(import_module(home[name]), name) is getattr(telefabric, name) for name in FACE)


def test_importing_the_package_imports_none_of_its_parts() -> None:
    code = "import sys, telefabric; print([name for name in sys.modules if name.startswith(('telefabric.', 'zmq'))])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_documentation_imports_nothing_else(document: Path) -> None:
    imported = re.findall(r"^(?:from|import) (telefabric\w*(?:\.\w+)*)", document.read_text("utf-8"), re.M)
    assert set(imported) <= PUBLIC_MODULES


@pytest.mark.parametrize("named", ["file", "folder", "text"])
def test_a_store_is_opened_by_its_file_or_folder(tmp_path: Path, named: str) -> None:
    file = tmp_path / FILE_NAME
    with Scribe(file):
        pass
    with open_store({"file": file, "folder": tmp_path, "text": str(file)}[named]) as reader:
        assert reader.runs() == []
        assert reader.where == str(file)


def test_a_store_at_a_malformed_address_is_refused_with_the_form_of_one() -> None:
    with pytest.raises(UsageError, match="write tcp://HOST:PORT"):
        open_store("tcp://lab")


def test_a_store_file_without_its_extra_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("telefabric.store.file.database", "telefabric.store.read.file_reader"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "apsw", None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'telefabric\[store\]'"):
        open_store(tmp_path)


def source_of(file: str | None) -> str:
    assert file is not None
    return Path(file).read_text("utf-8")
