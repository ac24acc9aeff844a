"""`SummaryWriter`, of torch and of tensorboardX: its scalars become metrics, its texts log lines, and a table of
hyperparameters metadata of the run. The logger of Stable-Baselines3: its numbers become metrics, too."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from telefabric_workers.repair import real_or_same
from telefabric_workers.run.auto.session import session

_ROW = re.compile(r"^\|(?P<name>[^|]+)\|(?P<value>.*)\|\s*$", re.MULTILINE)


class _Thread(threading.local):
    inside = False
    """A writer's method is under way; those that it calls itself write nothing new."""


_thread = _Thread()


def writer(module: ModuleType) -> None:
    for name, take in _TAKEN.items():
        original = getattr(module.SummaryWriter, name, None)
        if original is not None:
            setattr(module.SummaryWriter, name, _taking(original, take, module.__name__.rpartition(".")[0]))


def logger(module: ModuleType) -> None:
    """Numbers that the logger also hands to a `SummaryWriter`, or to an adapter of ours, are recorded there."""
    original = module.Logger.dump

    @functools.wraps(original)
    def dump(self: Any, step: int = 0) -> None:
        try:
            if not session.silent and self.level != module.DISABLED and not any(map(recorded, self.output_formats)):
                kept = module.filter_excluded_keys(self.name_to_value, self.name_to_excluded, "telefabric")
                session.seen["value of stable_baselines3"] += _numbers(kept, step)
        except Exception as error:  # noqa: BLE001  the program's own call is still to come
            session.failed(error)
        original(self, step)

    def recorded(output: Any) -> bool:
        ours = type(output).__module__.startswith("telefabric_workers.")
        return ours or isinstance(output, module.TensorBoardOutputFormat)

    module.Logger.dump = dump


def _numbers(values: Mapping[str, Any], step: int) -> int:
    found = {name: real_or_same(value) for name, value in values.items()}
    numbers = {name: value for name, value in found.items() if isinstance(value, float)}
    session.worker.metrics(numbers, global_step=step)
    return len(numbers)


def _taking(original: Callable[..., Any], take: Callable[..., int], library: str) -> Callable[..., Any]:
    @functools.wraps(original)
    def method(self: Any, *given: Any, **named: Any) -> Any:
        outermost = not _thread.inside
        _thread.inside = True
        try:
            result = original(self, *given, **named)
            if outermost and not session.silent:
                try:
                    session.seen[f"value of {library}"] += take(*given, **named)
                except Exception as error:  # noqa: BLE001  the program's own call has succeeded
                    session.failed(error)
            return result
        finally:
            if outermost:
                _thread.inside = False

    return method


def _scalar(tag: str, scalar_value: Any, global_step: Any = None, *_: Any, **__: Any) -> int:
    session.worker.metric(tag, scalar_value, global_step=global_step)
    return 1


def _scalars(main_tag: str, tag_scalar_dict: Mapping[str, Any], global_step: Any = None, *_: Any, **__: Any) -> int:
    for tag, value in tag_scalar_dict.items():
        session.worker.metric(f"{main_tag}/{tag}", value, global_step=global_step)
    return len(tag_scalar_dict)


def _text(tag: str, text_string: str, *_: Any, **__: Any) -> int:
    table = {row["name"].strip(): row["value"].strip() for row in _ROW.finditer(text_string)}
    if "hyperparam" in tag.lower() and table:
        header = next(iter(table))
        values = {name: value for name, value in table.items() if name != header and name.strip("-: ")}
        session.worker.set_metadata({tag: values})
    else:
        session.worker.log(text_string, logger=tag)
    return 1


def _hparams(hparam_dict: Mapping[str, Any], metric_dict: Mapping[str, Any], *_: Any, **__: Any) -> int:
    session.worker.set_metadata({"hparams": dict(hparam_dict)})
    return 1 + _scalars("hparams", metric_dict)


_TAKEN: dict[str, Callable[..., int]] = {
    "add_scalar": _scalar,
    "add_scalars": _scalars,
    "add_text": _text,
    "add_hparams": _hparams,
}
