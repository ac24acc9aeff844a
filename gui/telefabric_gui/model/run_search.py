"""The words by which a list of runs is searched: ``failed dqn``, ``state:lost -tag:old``, ``lr=0.001``, ``seed>3``.

A plain word occurs anywhere in what is known of a run. A word with a field is looked for in that alone: name, state,
mode, agent, tag, note, or any name of the metadata; ``=`` means all of it, ``<`` and ``>`` compare numbers. With a
minus in front the word must not be there. All words must fit.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

from telefabric.feed import RunView
from telefabric_gui.formatting import metadata_of, short

ARCHIVED = "archived"
"""This word finds archived runs, and no others."""
_LENGTH = 200
_WORD = re.compile(r'(-?)(?:([\w./-]+)(<=|>=|[:=<>]))?("[^"]*"?|\S+)')
_ORDERS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_FIELDS: dict[str, Callable[[RunView], list[str]]] = {
    "name": lambda run: [run.run_id],
    "state": lambda run: [run.state],
    "mode": lambda run: [run.control_mode],
    "agent": lambda run: list(run.agents),
    "tag": lambda run: list(run.tags),
    "note": lambda run: [run.notes],
}
Fits = Callable[[RunView, Callable[[], str]], bool]


def text_of(run: RunView) -> str:
    """All that plain words are looked for in."""
    told = " ".join(f"{name} {short(value, _LENGTH)}" for name, value in metadata_of(run.metadata).items())
    edited = f"{' '.join(run.tags)} {run.notes} {ARCHIVED if run.archived else ''}"
    return f"{run.run_id} {run.state} {run.control_mode} {' '.join(run.agents)} {told} {edited}".lower()


def search(words: str) -> Fits:
    """Whether a run fits the words; its text is only asked for when it is needed."""
    terms = [_term(*found.groups()) for found in _WORD.finditer(words.lower())]
    shown = ARCHIVED in words.lower().split()
    return lambda run, text: (shown or not run.archived) and all(fits(run, text) for fits in terms)


def _term(minus: str, field: str | None, sign: str | None, word: str) -> Fits:
    wanted = word.strip('"')
    if not field or not sign:
        return lambda run, text: (wanted in text()) is not bool(minus)
    literal = f"{field}{sign}{wanted}"

    def fits(run: RunView, text: Callable[[], str]) -> bool:
        found = any(_compares(value.lower(), sign, wanted) for value in _values(run, field))
        return (found or (sign == ":" and literal in text())) is not bool(minus)

    return fits


def _values(run: RunView, field: str) -> list[str]:
    if field in _FIELDS:
        return _FIELDS[field](run)
    return [short(value, _LENGTH) for name, value in metadata_of(run.metadata).items() if name.lower() == field]


def _compares(value: str, sign: str, wanted: str) -> bool:
    if sign == ":":
        return wanted in value
    left, right = _number(value), _number(wanted)
    if left is None or right is None:
        return sign == "=" and value == wanted
    return left == right if sign == "=" else bool(_ORDERS[sign](left, right))


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return None
