"""Explains why a message cannot be read, in words for the author of its sender."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec.inspect

from telefabric.errors import WireError

_PLACE = re.compile(r" - at `\$(.*)`$")
_SHORT = re.compile(r"at least length \d+, got (\d+)")
_LONG = re.compile(r"^`(\w+)` has")
_LISTED_MAX = 16
"""Names in one answer, which is short."""
_ADVICE = {"Expected `bytes`, got `str`": "send bytes (bin), not text such as hex digits"}


def unreadable(
    about: str, why: str, kinds: Mapping[str, type[msgspec.Struct]], *, what: str = "message", page: str = "WIRE.md"
) -> WireError:
    """`why` is what msgspec says of a message of this name, `kinds` are the messages that `page` describes."""
    kind = kinds.get(about)
    if kind is None:
        named = f"no {what} is named {about!r}" if about else f"a {what} is an array that begins with its name"
        listed = ", ".join(sorted(kinds)) if len(kinds) <= _LISTED_MAX else f"{what.capitalize()}s"
        return WireError("bad_control", f"{named}: see {page}, {listed}", about=about)
    said = _PLACE.sub("", why)
    field = _field(kind, why)
    advice = _ADVICE.get(said, f"see `{about}` in {page}")
    of_field = f"item `{field}` of " if field else ""
    return WireError("bad_control", f"{of_field}{about} cannot be read: {said}: {advice}", about=about, field=field)


def _field(kind: type[msgspec.Struct], why: str) -> str:
    """The name of the item at which it stopped: of one that is missing, of the first that is."""
    place = _PLACE.search(why)
    steps = [int(step) for step in re.findall(r"\[(\d+)\]", place[1])] if place else []
    steps += [int(found) for found in _SHORT.findall(why)]
    names: list[str] = []
    inside = msgspec.inspect.type_info(kind)
    for step in steps:
        if isinstance(inside, msgspec.inspect.UnionType):  # of a type and null
            inside = inside.types[0]
        if isinstance(inside, msgspec.inspect.StructType):
            number = step - (inside.tag is not None)
            if not 0 <= number < len(inside.fields):
                break
            names.append(inside.fields[number].name)
            inside = inside.fields[number].type
        else:
            names.append(str(step))
            inside = getattr(inside, "item_type", inside)
    return ".".join(names + _LONG.findall(why))
