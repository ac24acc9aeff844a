"""Edits of a run: the commands, and the type of each one's value. See WIRE.md, "Edits"."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from telefabric import limits
from telefabric.errors import WireError
from telefabric.wire.control import Count, Edit, Id, Name, Named
from telefabric.wire.names import DEMAND, is_name, is_printable
from telefabric_schemas.decoding import Decoder

DONE, REFUSED, FAILED = OUTCOMES = ("done", "refused", "failed")
"""Refused: it makes no sense, now or ever. Failed: it could not be done now, and the same edit may be asked again."""
_Int = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class Bookmark(Named, array_like=True, gc=False):
    """A place in a run, and a label for people."""

    agent_id: Name
    env_index: _Int
    episode_index: _Int
    step_index: _Int
    stream: Id | None = None
    """Null for the stream that is meant where none is named: the newest of the newest attempt."""
    label: str = ""


class Marked(Named, array_like=True, gc=False):
    """An outcome given by hand, which replaces the one that follows from the streams; null takes it back."""

    outcome: Literal["completed", "cancelled", "failed", "lost"] | None
    reason: str = ""


_NOTE = f"text of {limits.EDIT_VALUE_BYTES_MAX // limits.KIB} KiB at most"
_OF_TAG, _OF_NOTE, _NOTHING = (str, f"a tag, {DEMAND}"), (str, f"the whole note, {_NOTE}"), (type(None), "nil")
_VALUES: dict[str, tuple[Any, str]] = {
    "tag": _OF_TAG,
    "untag": _OF_TAG,
    "note": _OF_NOTE,
    "bookmark": (Bookmark, "agent, environment, episode, step, stream or nil, label"),
    "unbookmark": (Count, "the number of a bookmark"),
    "mark": (Marked, "an outcome (completed, cancelled, failed, lost) or nil, and a reason"),
    "archive": _NOTHING,
    "unarchive": _NOTHING,
    "delete": _NOTHING,
}
"""Command → the type of its value, and that type in words."""
COMMANDS = tuple(_VALUES)
_decoders: dict[str, Decoder[Any]] = {command: Decoder(kind) for command, (kind, _) in _VALUES.items()}


def value_of(edit: Edit) -> Any:
    """The value of an edit, decoded. Raises `WireError`, a sentence with the remedy, for one that cannot be applied."""
    if edit.command not in _VALUES:
        commands = ", ".join(COMMANDS)
        raise _wrong("command", f"no edit is named {edit.command[:32]!r}: the edits are {commands}")
    demand = f"the value of {edit.command} is {_VALUES[edit.command][1]}"
    if len(edit.value) > limits.EDIT_VALUE_BYTES_MAX:
        raise _wrong("value", f"a value of {len(edit.value)} bytes is too large: {demand}")
    try:
        value = _decoders[edit.command].decode(edit.value)
    except msgspec.DecodeError as error:
        raise _wrong("value", f"{error}: {demand}") from None
    if edit.command in ("tag", "untag") and not is_name(value):
        raise _wrong("value", f"{value[:32]!r} is no tag: {demand}")
    if isinstance(value, Bookmark | Marked):
        text = value.label if isinstance(value, Bookmark) else value.reason
        if not is_printable(text):
            raise _wrong("value", f"{text[:32]!r} cannot be printed: {demand}")
    return value


def tags_of(text: str) -> list[str]:
    """The tags of a run as the store keeps them; none when the text is damaged."""
    try:
        return msgspec.json.decode(text, type=list[str])
    except msgspec.DecodeError:
        return []


def _wrong(field: str, why: str) -> WireError:
    return WireError("bad_edit", why, about="edit", field=field)
