"""Messages between processes that do not trust each other: plain data as JSON, bounded in size.

None, booleans, numbers and text are themselves; any other value is a list that begins with the name of its type. Other
objects stay in the process of the program, which sends only their number.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

MAX_BYTES = 2**20  # of a message from a program
LARGE = 2**28  # of a message between trusted processes
MAX_DIGITS = 20_000  # of a whole number: converting one takes quadratic time
_LENGTH_BYTES = 4


class Ended(Exception):
    """The other side has ended, or has sent something that is not a message."""


def encode(value: Any, number_of: Callable[[Any], int]) -> Any:
    """Returns a value that JSON can represent. `number_of` returns the number of an object that is not plain data.

    Raises:
        RecursionError: if the value is nested too deeply, or contains itself.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return [kind.__name__, *(encode(item, number_of) for item in value)]
    if isinstance(value, dict):
        return ["dict", *([encode(key, number_of), encode(item, number_of)] for key, item in value.items())]
    if isinstance(value, bytes | bytearray):
        return ["bytes", bytes(value).hex()]
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if hasattr(type(value), "tolist"):  # NumPy's arrays and numbers
        return encode(value.tolist(), number_of)
    return ["object", number_of(value)]


def decode(data: Any, object_of: Callable[[int], Any]) -> Any:
    """Returns the value of what `encode` has returned, perhaps in a hostile process.

    Raises:
        Exception: of any kind, if it is nothing that `encode` returns.
    """
    if not isinstance(data, list):
        return data
    kind, *items = data
    if kind == "dict":
        return {decode(key, object_of): decode(item, object_of) for key, item in items}
    if kind in _CONTAINERS:
        return _CONTAINERS[kind](decode(item, object_of) for item in items)
    if kind == "bytes":
        return bytes.fromhex(items[0])
    if kind == "complex":
        return complex(items[0], items[1])
    if kind == "object" and isinstance(items[0], int):
        return object_of(items[0])
    raise ValueError(kind)


_CONTAINERS: dict[str, Callable[..., Any]] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def send(connection: socket.socket, message: Any, limit: int = MAX_BYTES) -> None:
    """Sends a message that JSON can represent.

    Raises:
        ValueError: if it is too long.
        Ended: if the other side has ended.
    """
    body = json.dumps(message).encode()
    if len(body) > limit:
        raise ValueError(f"the value has more than {limit} bytes")
    try:
        connection.sendall(len(body).to_bytes(_LENGTH_BYTES, "big") + body)
    except OSError as error:
        raise Ended from error


def receive(connection: socket.socket, limit: int = MAX_BYTES) -> Any:
    """Returns the next message.

    Raises:
        Ended: if there is none.
    """
    length = int.from_bytes(_exactly(connection, _LENGTH_BYTES), "big")
    if length > limit:
        raise Ended("a message that is too long")
    try:
        return json.loads(_exactly(connection, length))
    except (ValueError, RecursionError) as error:
        raise Ended("not a message") from error


def _exactly(connection: socket.socket, size: int) -> bytes:
    """Reads no more than this, because the next message may be a secret to a process that is forked before it."""
    received = bytearray()
    while len(received) < size:
        try:
            part = connection.recv(size - len(received))
        except OSError as error:
            raise Ended from error
        if not part:
            raise Ended
        received += part
    return bytes(received)
