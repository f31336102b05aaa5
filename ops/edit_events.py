"""Change events with a patch, which sets, renames and deletes fields, and maps field values to other values."""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import typer

from contract.events import InvalidEvent
from contract.strict_json import parse_json

ID_OF_TEXT = "@sha256"
"""A value that is replaced by a hash of the event's text, so that identical texts get identical ids."""
_MISSING = object()

type Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Patch:
    """Changes to the fields of an event, applied in the order rename, map, delete, set.

    Rename, map and delete ignore a field that does not exist; set creates it.
    """

    set: Mapping[Path, object] = field(default_factory=dict)
    rename: Mapping[Path, Path] = field(default_factory=dict)
    delete: Sequence[Path] = ()
    map: Mapping[Path, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, sets: Sequence[str], renames: Sequence[str], deletes: Sequence[str], maps: Sequence[str]
    ) -> Self:
        """Parse the options --set, --rename, --delete and --map. Raises typer.BadParameter if one is invalid."""
        return cls(
            {_path(name): _value(text) for name, text in map(_pair, sets)},
            {_path(old): _path(new) for old, new in map(_pair, renames)},
            [_path(name) for name in deletes],
            {_path(name): _mapping(text) for name, text in map(_pair, maps)},
        )

    def __bool__(self) -> bool:
        return bool(self.set or self.rename or self.delete or self.map)

    def apply(self, event: Mapping[str, object], text: str) -> dict[str, object]:
        """Return a patched copy of an event.

        The value `@sha256` in `set` is replaced with an id derived from `text`, the event as it was sent.
        """
        changed = copy.deepcopy(dict(event))
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
        raise typer.BadParameter(
            f"{text!r} contains no equals sign: write --set PATH=VALUE, --rename OLD=NEW or --map PATH=OLD:NEW"
        )
    return name, value


def _path(text: str) -> Path:
    names = tuple(text.strip().split("."))
    if not all(names):
        raise typer.BadParameter(f"{text!r} is not a path: separate the names with dots, as in user.deviceId")
    return names


def _value(text: str) -> object:
    try:
        return parse_json(text.encode("utf-8", "surrogatepass"))
    except InvalidEvent:
        if text[:1] in ("{", "["):
            raise typer.BadParameter(
                f"{text!r} starts like a JSON object or array, but is not valid JSON"
            ) from None
        return text


def _mapping(text: str) -> dict[str, str]:
    found = {}
    for part in text.split(","):
        old, colon, new = part.partition(":")
        if not colon:
            raise typer.BadParameter(f"{part!r} contains no colon: write PATH=OLD:NEW,OLD:NEW")
        found[old] = new
    return found


def _parent(event: object, path: Path) -> dict[str, object]:
    """Return the JSON object that contains the field at this path; {} if there is no such object."""
    for name in path[:-1]:
        event = event.get(name) if isinstance(event, dict) else None
    return event if isinstance(event, dict) else {}


def _get(event: dict[str, object], path: Path) -> object:
    return _parent(event, path).get(path[-1], _MISSING)


def _take(event: dict[str, object], path: Path) -> object:
    return _parent(event, path).pop(path[-1], _MISSING)


def _put(event: dict[str, object], path: Path, value: object) -> None:
    """Set the field at a path. A parent that is missing or is not an object is replaced by a new object."""
    for name in path[:-1]:
        inner = event.get(name)
        if not isinstance(inner, dict):
            inner = event[name] = dict[str, object]()
        event = inner
    event[path[-1]] = value
