"""A patch of events: set, rename, delete or map a field."""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import typer

from contract.events import InvalidEvent, parse_json

ID_OF_TEXT = "@sha256"
"""A value that stands for an id derived from the event's text; the same text gives the same id."""
_MISSING: Any = object()

type Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Patch:
    """Changes in the order rename, map, delete, set. Paths have dots; a missing field is ignored."""

    set: Mapping[Path, Any] = field(default_factory=dict)
    rename: Mapping[Path, Path] = field(default_factory=dict)
    delete: Sequence[Path] = ()
    map: Mapping[Path, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, sets: Sequence[str], renames: Sequence[str], deletes: Sequence[str], maps: Sequence[str]
    ) -> Self:
        """Parse the options of a command. Raises typer.BadParameter."""
        return cls(
            {_path(name): _value(text) for name, text in map(_pair, sets)},
            {_path(old): _path(new) for old, new in map(_pair, renames)},
            [_path(name) for name in deletes],
            {_path(name): _mapping(text) for name, text in map(_pair, maps)},
        )

    def __bool__(self) -> bool:
        return bool(self.set or self.rename or self.delete or self.map)

    def apply(self, event: Mapping[str, Any], text: str) -> dict[str, Any]:
        """Return a changed copy of an event; `text` is the event as it was sent."""
        changed: dict[str, Any] = copy.deepcopy(dict(event))
        for old, new in self.rename.items():
            if (value := _take(changed, old)) is not _MISSING:
                _put(changed, new, value)
        for path, values in self.map.items():
            found = _get(changed, path)
            if isinstance(found, str) and found in values:
                _put(changed, path, values[found])
        for path in self.delete:
            _take(changed, path)
        for path, value in self.set.items():
            made = hashlib.sha256(text.encode()).hexdigest()[:24] if value == ID_OF_TEXT else value
            _put(changed, path, made)
        return changed


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r}: write PATH=VALUE")
    return name, value


def _path(text: str) -> Path:
    names = tuple(text.strip().split("."))
    if not all(names):
        raise typer.BadParameter(f"{text!r} is not a path: separate names by dots, such as user.deviceId")
    return names


def _value(text: str) -> Any:
    try:
        return parse_json(text.encode("utf-8", "surrogatepass"))
    except InvalidEvent:
        if text[:1] in ("{", "["):
            raise typer.BadParameter(f"{text!r} is not JSON") from None
        return text


def _mapping(text: str) -> dict[str, str]:
    found = {}
    for part in text.split(","):
        old, colon, new = part.partition(":")
        if not colon:
            raise typer.BadParameter(f"{part!r}: write OLD:NEW,OLD:NEW")
        found[old] = new
    return found


def _holder(event: dict[str, Any], path: Path) -> Any:
    holder: Any = event
    for name in path[:-1]:
        holder = holder.get(name) if isinstance(holder, dict) else None
    return holder


def _get(event: dict[str, Any], path: Path) -> Any:
    holder = _holder(event, path)
    return holder.get(path[-1], _MISSING) if isinstance(holder, dict) else _MISSING


def _take(event: dict[str, Any], path: Path) -> Any:
    holder = _holder(event, path)
    return holder.pop(path[-1], _MISSING) if isinstance(holder, dict) else _MISSING


def _put(event: dict[str, Any], path: Path, value: Any) -> None:
    """Set a field. Missing or non-object parents become objects."""
    for name in path[:-1]:
        if not isinstance(event.get(name), dict):
            event[name] = {}
        event = event[name]
    event[path[-1]] = value
