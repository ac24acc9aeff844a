"""The menu of a table's columns: those that every table has, parts of `info`, and metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from PySide6.QtWidgets import QWidget

from telefabric_gui.formatting import decoded, short
from telefabric_gui.info import paths_of
from telefabric_gui.item_models.events import StepTable, step_of
from telefabric_gui.item_models.table import Column
from telefabric_gui.theme import RIGHT
from telefabric_gui.views.styled import heading, menu_of

OFFERED_MAX = 40
"""Parts of `info`, and metrics, that a menu has room for."""
_BEFORE = 6
"""The first base columns come before the chosen ones. The last columns are hidden first where there is no room."""


def offer_columns(
    under: QWidget, table: StepTable, metrics: Iterable[str], chosen: Callable[[Sequence[Column]], None]
) -> None:
    """Open the menu below a button; `chosen` takes the columns that are to be shown."""
    newest = table.newest()
    step = step_of(newest.raw) if newest else None
    info = paths_of(decoded(step.info)) if step else []
    shown = {column.source for column in table.columns if column.source}
    sources = list(dict.fromkeys([*shown, *(f"info/{name}" for name in info), *(f"metric/{name}" for name in metrics)]))
    menu = menu_of(under)
    for title, offered in (
        ("Columns", list(table.base)),
        ("info", [_column(source) for source in sources if source.startswith("info/")][:OFFERED_MAX]),
        ("Metrics", [_column(source) for source in sources if source.startswith("metric/")][:OFFERED_MAX]),
    ):
        if offered:
            heading(menu, title)
        for column in offered:
            action = menu.addAction(short(column.source.partition("/")[2] or column.title))
            action.setCheckable(True)
            action.setChecked(column in table.columns)
            action.triggered.connect(lambda on, column=column: chosen(with_column(table, column, on=on)))
    menu.popup(under.mapToGlobal(under.rect().bottomLeft()))


def with_column(table: StepTable, column: Column, *, on: bool) -> Sequence[Column]:
    """The shown columns, and one more or less; there is always one."""
    base = [one for one in table.base if (one in table.columns and one != column) or (one == column and on)]
    more = [one for one in table.columns if one.source and one != column] + [column] * bool(on and column.source)
    before = [one for one in base if one in table.base[:_BEFORE]]
    return (*before, *more, *base[len(before) :]) or table.columns


def names_of(columns: Iterable[Column]) -> list[str]:
    """The shown columns, as they are kept from start to start."""
    return [one.source or one.title for one in columns]


def columns_named(table: StepTable, names: Iterable[str]) -> Sequence[Column]:
    """The columns of these names; the usual ones, if there is none."""
    base = {one.title: one for one in table.base}
    found = [base[name] if name in base else _column(name) for name in names if name in base or "/" in name]
    return tuple(found[: OFFERED_MAX + len(base)]) or tuple(table.usual)


def _column(source: str) -> Column:
    _, _, name = source.partition("/")
    return Column(short(name.rpartition(".")[2] or name, 14), 9, RIGHT, source.replace("/", ": ", 1), source=source)
