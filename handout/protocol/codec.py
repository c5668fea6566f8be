"""Encodes messages as the JSON headers of frames, and decodes headers into messages.

A header is a JSON object. It holds the name of the message under ``"m"``, and the fields of the message by name. The
encoder leaves out each field that has its default value. A hello, which opens a connection, has no name.

Some fields are columns: they have one entry for each row of the message, such as each task that the message is about.
The encoder writes the first column of a message whole, because its length is the number of rows. If all entries of any
other column are equal, the encoder writes only one of them.

`handout.protocol.messages` declares the messages. No other module depends on how they are encoded, except for hellos.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from handout.protocol import messages
from handout.protocol.frames import ProtocolError
from handout.protocol.messages import AnyMessage, WorkerOptions

__all__ = ["decode", "decode_hello", "decode_line", "encode", "encode_hello", "encode_line", "name_of", "parts"]

Kind = TypeVar("Kind", bound=AnyMessage)

_NAME = "m"
_REQUIRED = object()
#: Maps the declared type of a field to the types that the field's value in JSON may have. A field whose declared type
#: is not listed here may have any value.
_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool, int),
    "Column": (list, tuple),
    "Sequence": (list, tuple),
    "Mapping": (dict,),
    "WorkerOptions": (list, tuple),
    "None": (type(None),),
}


class _Field(NamedTuple):
    name: str
    default: Any
    #: True for each column except the first column of the message. The encoder may write such a column as one entry.
    may_shrink: bool
    #: The types that the field's JSON value may have.
    types: tuple[type, ...]


class _Form(NamedTuple):
    """How the messages of one type are encoded."""

    name: str
    fields: tuple[_Field, ...]
    #: Names of the columns. The first column is always written whole, so its length is the number of rows.
    columns: tuple[str, ...]
    #: Names of the fields that hold `WorkerOptions`. JSON turns such a field into a list.
    options: tuple[str, ...]


def _form(name: str, kind: type[Any]) -> _Form:
    fields: list[_Field] = []
    columns: list[str] = []
    options: list[str] = []
    for field, annotation in kind.__annotations__.items():
        # Some versions of Python give the annotation as a string, and others as an object that holds the string.
        text = str(getattr(annotation, "__forward_arg__", annotation))
        names = [part.partition("[")[0].strip() for part in _alternatives(text)]
        types = tuple(t for each in names for t in _JSON_TYPES.get(each, (object,)))
        is_column = "Column" in names
        fields.append(_Field(field, kind._field_defaults.get(field, _REQUIRED), is_column and bool(columns), types))
        if is_column:
            columns.append(field)
        if "WorkerOptions" in names:
            options.append(field)
    return _Form(name, tuple(fields), tuple(columns), tuple(options))


def _alternatives(annotation: str) -> list[str]:
    """Split the text of a union type at each ``|`` that is outside of brackets."""
    depth, parts = 0, [""]
    for character in annotation:
        depth += (character == "[") - (character == "]")
        if character == "|" and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


_DIRECTIONS: tuple[Mapping[str, type[Any]], ...] = (
    messages.TO_AGENT,
    messages.TO_CONTROLLER,
    messages.TO_WORKER,
    messages.FROM_WORKER,
    messages.TO_SUPERVISOR,
    messages.FROM_SUPERVISOR,
)
_HELLOS: tuple[type[Any], ...] = (messages.Greeting, messages.Welcome, messages.Progress)
_FORMS: dict[type[Any], _Form] = {
    **{kind: _form(name, kind) for direction in _DIRECTIONS for name, kind in direction.items()},
    **{kind: _form("hello", kind) for kind in _HELLOS},
}


def name_of(kind: type[AnyMessage]) -> str:
    """Return the name that the messages of a type have in their headers."""
    return _FORMS[kind].name


def encode(message: AnyMessage) -> dict[str, Any]:
    """Return the header of a message."""
    form = _FORMS[type(message)]
    return _put({_NAME: form.name}, form, message)


def encode_hello(hello: AnyMessage) -> dict[str, Any]:
    """Return the header of a hello, which has no name."""
    return _put({}, _FORMS[type(hello)], hello)


def _put(header: dict[str, Any], form: _Form, message: AnyMessage) -> dict[str, Any]:
    for (name, default, may_shrink, _), value in zip(form.fields, message):
        if value == default:
            continue
        if may_shrink and len(value) > 1 and value[0] == value[-1] and value.count(value[0]) == len(value):
            header[name] = value[:1]
        else:
            header[name] = value
    return header


def decode(direction: Mapping[str, type[AnyMessage]], header: Mapping[str, Any]) -> tuple[str, AnyMessage]:
    """Decode a header. Return the name of the message, and the message.

    Args:
        direction: The types of the messages that the sender may send, by name.
        header: The header of a frame.

    Raises:
        ProtocolError: The sender may not send a message of this name, or its fields differ from the declared fields.
    """
    name = header.get(_NAME)
    kind = direction.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ProtocolError(f"no message {name!r} may be sent in this direction")
    assert isinstance(name, str)
    return name, _read(kind, header, {_NAME})


def decode_hello(kind: type[Kind], header: Mapping[str, Any]) -> Kind:
    """Decode the header of a hello. Ignore fields that are not declared.

    Raises:
        ProtocolError: A field without a default is missing, or a declared field has a value of a wrong type.
    """
    return _read(kind, header, set(header))


def _read(kind: type[Kind], header: Mapping[str, Any], ignored: set[str]) -> Kind:
    form = _FORMS[kind]
    values: dict[str, Any] = {}
    for name, default, _, types in form.fields:
        value = header.get(name, default)
        if value is default:
            if default is _REQUIRED:
                raise ProtocolError(f"message {form.name!r} lacks its field {name!r}")
        elif not isinstance(value, types):
            raise ProtocolError(f"message {form.name!r} has the bad value {str(value)[:50]!r} in its field {name!r}")
        values[name] = value
    if not ignored.issuperset(header) and (unknown := set(header) - values.keys() - ignored):
        raise ProtocolError(f"message {form.name!r} has the unknown field {min(unknown)!r}")
    if len(form.columns) > 1:
        _expand(form, values)
    for name in form.options:
        values[name] = _read_options(values[name])
    return kind(**values)


def _read_options(values: Sequence[Any]) -> WorkerOptions:
    if len(values) != len(WorkerOptions._fields):
        raise ProtocolError(f"a message has {len(values)} worker options, which is the wrong number")
    return WorkerOptions(*values)


def _expand(form: _Form, values: dict[str, Any]) -> None:
    """Restore each column that was written as one entry, by repeating this entry for each row."""
    first, *others = form.columns
    count = len(values[first])
    for name in others:
        column = values[name]
        if column is None or len(column) == count:
            continue
        if len(column) != 1:
            raise ProtocolError(f"message {form.name!r} has {len(column)} rows in {name!r}, and {count} in {first!r}")
        values[name] = column * count


def encode_line(message: AnyMessage) -> bytes:
    """Encode a message between agent and supervisor, as one line of JSON."""
    return json.dumps(encode(message)).encode() + b"\n"


def decode_line(direction: Mapping[str, type[AnyMessage]], line: bytes) -> tuple[str, Any]:
    """Decode a line of JSON from the agent or the supervisor. Return the name of the message, and the message."""
    return decode(direction, json.loads(line))


def parts(payload: memoryview, sizes: Sequence[int]) -> Iterator[memoryview]:
    """Split a payload into parts of these sizes, and yield the parts in order.

    Raises:
        ProtocolError: The payload is shorter than all parts together, or a size is negative.
    """
    position = 0
    for size in sizes:
        end = position + size
        if size < 0 or end > len(payload):
            raise ProtocolError(f"a payload has a part of {size} bytes where {len(payload) - position} bytes are left")
        yield payload[position:end]
        position = end
