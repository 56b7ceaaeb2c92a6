"""The process in which a program runs. Whatever it sends may be forged by the program, so it decides nothing.

A program that reads input is run once. A program that defines functions is loaded, and then answers calls: the name of
a function with arguments, as plain data, for what the function returns.
"""

from __future__ import annotations

import atexit
import errno
import gc
import io
import os
import random
import socket
import sys
import threading
import types
from typing import Any

from dapo_lightning.programs import values

MODULE = 0  # number of the program itself among its objects
_MAX_DETAIL = 200  # characters
_MAX_OBJECTS = 10_000


def run(source: str, channel: socket.socket, is_script: bool) -> None:
    """Runs the program in this process, and ends the process. It must have been confined."""
    code = 1
    try:
        code = _run(source, channel, is_script)
    finally:
        os._exit(code)


def _run(source: str, channel: socket.socket, is_script: bool) -> int:
    random.seed(0)
    gc.enable()
    module = types.ModuleType("__main__" if is_script else "program")
    sys.modules[module.__name__] = module  # where dataclasses and pickle look for it
    sys.stdin = os.fdopen(0, "r", encoding="utf-8")
    sys.stdout = os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = io.StringIO()
    try:
        exec(compile(source, "<program>", "exec", dont_inherit=True), module.__dict__)
        if is_script:
            threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
            atexit._run_exitfuncs()
            sys.stdout.flush()
    except BaseException as error:
        if is_script and isinstance(error, SystemExit) and error.code in (None, 0):
            sys.stdout.flush()
            return 0
        values.send(channel, _failure(error))
        return 1
    if not is_script:
        names = [name for name, value in module.__dict__.items() if callable(value)]
        values.send(channel, {"names": names})
        _serve(channel, module)
    return 0


def _serve(channel: socket.socket, module: types.ModuleType) -> None:
    objects: list[Any] = [module]

    def number_of(value: Any) -> int:
        if len(objects) >= _MAX_OBJECTS:
            raise MemoryError
        objects.append(value)
        return len(objects) - 1

    while True:
        request = values.receive(channel)
        try:
            value = getattr(objects[request["of"]], request["name"])
            changed = None
            if request["arguments"] is not None:
                arguments, keywords = values.decode(request["arguments"], objects.__getitem__)
                value = value(*arguments, **keywords)
                if any(isinstance(argument, list | dict | set) for argument in arguments):
                    changed = values.encode(arguments, number_of)
            reply = {"value": values.encode(value, number_of), "arguments": changed}
            values.send(channel, reply)
        except BaseException as error:
            values.send(channel, _failure(error))


def _failure(error: BaseException) -> dict[str, Any]:
    name = type(error).__name__
    try:
        detail = f"{name}: {error}"[:_MAX_DETAIL]
    except BaseException:  # the message, too, is the program's
        detail = name
    return {"failure": _kind(error), "raised": name, "detail": detail}


def _kind(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return "syntax"
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return "output"
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno == errno.EROFS):
        return "forbidden"
    return "exception"
