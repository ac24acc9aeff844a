"""The import hook: when a program imports a library that can be recorded, the module for it here gets the library.

This file is loaded alone, at the start of every Python process of a program, and imports nothing but the standard
library. `HOOKED` names the rest, which is imported when a program imports a library of theirs.
"""

from __future__ import annotations

import atexit
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, cast

VARIABLE = "TELEFABRIC_AUTO"
"""The folder of one launch, in which its processes claim what only one of them may have."""
TOP = "TELEFABRIC_AUTO_TOP"
"""The process id of the first Python process; the others are its children."""
_HERE = "telefabric_workers.run.auto"
HOOKED = {
    "gymnasium.core": (f"{_HERE}.gymnasium_hook", "environments"),
    "gymnasium.vector.vector_env": (f"{_HERE}.gymnasium_hook", "vectors"),
    "gymnasium.vector.async_vector_env": (f"{_HERE}.gymnasium_hook", "processes"),
    "pettingzoo.utils.env": (f"{_HERE}.pettingzoo_hook", "environments"),
    "tensorboardX.writer": (f"{_HERE}.scalars", "writer"),
    "torch.utils.tensorboard.writer": (f"{_HERE}.scalars", "writer"),
    "stable_baselines3.common.logger": (f"{_HERE}.scalars", "logger"),
}
"""The module that a program imports, and the function that gets it as soon as it is executed."""


LIBRARIES = ("gymnasium", "pettingzoo", "tensorboardX", "torch.utils.tensorboard")


class _Finder:
    """On `sys.meta_path`: finds nothing itself, but adds the call of the hook to what the others find."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in HOOKED:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = cast(Loader, _Loader(spec.loader))
                return spec
        return None


class _Loader:
    """Executes a module by its own loader, and hooks it."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        create = getattr(self._loader, "create_module", None)
        return create(spec) if create else None

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader  # what reads the module's source or data asks it
        self._loader.exec_module(module)
        _hook(module)


def _hook(module: ModuleType) -> None:
    name, function = HOOKED[module.__name__]
    try:
        getattr(importlib.import_module(name), function)(module)
    except Exception as error:  # noqa: BLE001  the program's import must succeed all the same
        say(f"{module.__name__} is not recorded: {error}")


def install() -> None:
    """Hook what this process imports from now on, and what it has imported; in a program that was started for it."""
    if VARIABLE not in os.environ:
        return
    sys.meta_path.insert(0, cast(Any, _Finder()))
    os.environ.setdefault(TOP, str(os.getpid()))
    if is_top():
        open(os.path.join(os.environ[VARIABLE], "hooked"), "w").close()  # what started us looks for it
        atexit.register(_tell)
    for name in HOOKED:
        if name in sys.modules:
            _hook(sys.modules[name])


def is_top() -> bool:
    """This process is the first of the program, not one that it started."""
    return os.environ.get(TOP) == str(os.getpid())


def _tell() -> None:
    """At the end of the program: what was recorded."""
    if not is_top():
        return
    session = sys.modules.get(f"{_HERE}.session")
    say(
        session.session.summary()
        if session
        else "recorded nothing: the program imported none of " + ", ".join(LIBRARIES)
    )


def say(sentence: str) -> None:
    """One line on stderr, unless that is closed."""
    try:
        sys.stderr.write(f"telefabric: --auto {sentence}\n")
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        pass  # nobody can be told
