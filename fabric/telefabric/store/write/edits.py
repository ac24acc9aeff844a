"""Applying edits: each in one transaction with its row in `edits`, so that one that comes again changes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import apsw

from telefabric import limits
from telefabric.errors import UsageError, WireError
from telefabric.store.write import deletion
from telefabric.wire.control import Edit, Edited
from telefabric.wire.edits import DONE, REFUSED, Bookmark, Marked, tags_of, value_of


def apply(db: apsw.Connection, edit: Edit, last_id: int) -> Edited:
    """Judge an edit, inside a transaction of the caller; `last_id` is the newest id of all events."""
    found = db.execute("SELECT command, run_id, value, outcome, sentence FROM edits WHERE edit_id = ?", (edit.id,)).get
    value = bytes(edit.value)
    if found is not None:
        if found[:3] == (edit.command, edit.run_id, value):
            return Edited(edit.id, *found[3:])
        return Edited(edit.id, REFUSED, "this id is that of another edit: choose each by chance")
    try:
        outcome, sentence = DONE, _Editing(db, edit, last_id).apply()
    except (UsageError, WireError) as error:
        outcome, sentence = REFUSED, str(error)
    db.execute(
        "INSERT INTO edits (edit_id, time_ns, by, command, run_id, value, outcome, sentence)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (edit.id, time.time_ns(), edit.by, edit.command, edit.run_id, value, outcome, sentence),
    )
    return Edited(edit.id, outcome, sentence)


class _Editing:
    """One edit of a run. Each command has a method, which checks before it changes, and returns a sentence.

    Raises `UsageError` or `WireError` for an edit that makes no sense.
    """

    def __init__(self, db: apsw.Connection, edit: Edit, last_id: int) -> None:
        self._db, self._edit, self._last_id = db, edit, last_id
        self._name = edit.run_id
        self._time_ns = time.time_ns()

    def apply(self) -> str:
        value = value_of(self._edit)
        found = self._db.execute("SELECT run, status, tags FROM runs WHERE run_id = ?", (self._name,)).get
        if found is None:
            raise UsageError(f"the store has no run {self._name!r}: see telefabric runs list")
        self._run, status, tags = found
        self._runs_still = status == "running"
        self._tags = tags_of(tags)
        method: Callable[[Any], str] = getattr(self, f"_{self._edit.command}")
        return method(value)

    def _set(self, column: str, value: object) -> None:
        self._db.execute(f"UPDATE runs SET {column} = ? WHERE run = ?", (value, self._run))

    def _tag(self, tag: str) -> str:
        if len({*self._tags, tag}) > limits.TAGS_MAX:
            raise UsageError(f"run {self._name!r} has {limits.TAGS_MAX} tags, and no run may have more: untag one")
        self._set("tags", json.dumps([*dict.fromkeys((*self._tags, tag))], ensure_ascii=False))
        return f"run {self._name!r} has the tag {tag!r}"

    def _untag(self, tag: str) -> str:
        if tag not in self._tags:
            raise UsageError(f"run {self._name!r} has no tag {tag!r}: see telefabric runs show")
        self._set("tags", json.dumps([one for one in self._tags if one != tag], ensure_ascii=False))
        return f"run {self._name!r} has the tag {tag!r} no more"

    def _note(self, text: str) -> str:
        self._set("notes", text)
        return f"run {self._name!r} has a note of {len(text)} characters" if text else f"run {self._name!r} has no note"

    def _bookmark(self, place: Bookmark) -> str:
        if self._db.execute("SELECT count(*) FROM bookmarks WHERE run = ?", (self._run,)).get >= limits.BOOKMARKS_MAX:
            raise UsageError(f"run {self._name!r} has {limits.BOOKMARKS_MAX} bookmarks: unbookmark some")
        where = (self._run, place.agent_id, place.env_index, place.episode_index, place.step_index, place.stream)
        number = self._db.execute(
            "INSERT INTO bookmarks (run, agent_id, env_index, episode_index, step_index, stream_id, label, by, time_ns)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING bookmark",
            (*where, place.label, self._edit.by, self._time_ns),
        ).get
        return f"run {self._name!r} has bookmark {number} at episode {place.episode_index}, step {place.step_index}"

    def _unbookmark(self, number: int) -> str:
        of_run = "DELETE FROM bookmarks WHERE bookmark = ? AND run = ? RETURNING bookmark"
        if self._db.execute(of_run, (number, self._run)).get is None:
            raise UsageError(f"run {self._name!r} has no bookmark {number}: see telefabric runs show")
        return f"bookmark {number} of run {self._name!r} is removed"

    def _mark(self, mark: Marked) -> str:
        if self._runs_still and mark.outcome is not None:
            raise UsageError(f"run {self._name!r} runs: mark it when it has ended, or is lost")
        given = mark.outcome is not None
        self._db.execute(
            "UPDATE runs SET mark = ?, mark_reason = ?, mark_by = ?, mark_ns = ? WHERE run = ?",
            (*((mark.outcome, mark.reason, self._edit.by, self._time_ns) if given else (None,) * 4), self._run),
        )
        return f"run {self._name!r} is marked {mark.outcome}" if given else f"run {self._name!r} is not marked any more"

    def _archive(self, _: None) -> str:
        self._set("archived_ns", self._time_ns)
        return f"run {self._name!r} is archived"

    def _unarchive(self, _: None) -> str:
        self._set("archived_ns", None)
        return f"run {self._name!r} is not archived any more"

    def _delete(self, _: None) -> str:
        if self._runs_still:
            raise UsageError(
                f"run {self._name!r} runs: stop it first; one whose workers are gone is lost in a minute or so, and "
                "can be deleted then"
            )
        deletion.begin(self._db, self._run, self._time_ns, self._last_id)
        return f"run {self._name!r} is deleted"
