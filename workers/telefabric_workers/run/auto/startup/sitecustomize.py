"""Python runs this file when it starts, since its folder is first on PYTHONPATH. It installs the import hook, then runs
the `sitecustomize` that it hides. The interpreter may be an old one, and may have no telefabric."""

import os
import sys


def _install() -> None:
    """Load the import hook alone: importing its package would cost each Python child of a program its time."""
    import importlib.util

    name = "telefabric_workers.run.auto.hook"
    package = importlib.util.find_spec("telefabric_workers")
    folder = next(iter(package.submodule_search_locations or ()), "") if package else ""
    path = os.path.join(folder, "run", "auto", "hook.py")
    if not (folder and os.path.exists(path)):
        _say_once("has no telefabric that can do it")
        return
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    sys.modules[name] = hook
    spec.loader.exec_module(hook)
    hook.install()


def _say_once(why: str) -> None:
    folder = os.environ.get("TELEFABRIC_AUTO", "")
    open(os.path.join(folder, "unhooked"), "x").close()  # raises where another process has said it
    sys.stderr.write(f"telefabric: --auto records nothing of {sys.executable}, which {why}; the program runs on.\n")


def _run_hidden() -> None:
    """Errors are the hidden file's own: Python's start-up prints them, as it does without us."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder or os.curdir) != here]
    ours = sys.modules.pop("sitecustomize")
    try:
        import sitecustomize  # type: ignore[import-not-found]  # noqa: F401
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
    finally:
        sys.modules.setdefault("sitecustomize", ours)


try:
    _install()
except FileExistsError:
    pass
except Exception as error:  # noqa: BLE001  the program must start all the same
    sys.stderr.write(f"telefabric: --auto records nothing: {error!r}\n")
_run_hidden()
