"""Runs the tests of a program in a process of their own, so that the program can neither see nor change them.

The tests call the functions of the program through `Remote` objects. Arguments and results are copied between the two
processes as plain data, so everything that a test compares, it compares here, with the methods of built-in types.
"""

from __future__ import annotations

import ast
import builtins
import random
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from dapo_lightning.programs import KINDS, candidate, values
from dapo_lightning.programs.process import Failed, Process

_FAILURE = "_failure_of_the_program"  # attribute of an exception that the program has raised
_MAX_DETAIL = 200  # characters


class ProgramError(Exception):
    """The program has raised an exception of its own."""


class _Stop(BaseException):
    """Ends the tests after the first failure."""


def run(job: Mapping[str, Any], receive_tests: Callable[[], Any]) -> dict[str, Any]:
    """Runs a program and returns the verdict.

    Args:
        job: "program"; "stdin", the input of a script, or None if tests follow; "seconds"; "every", whether to go on
            after a failed test.
        receive_tests: is called once the process of the program has been forked, so that this process does not know
            the tests before, and returns "preamble", "tests" and "entry_point".

    Returns:
        "failure" and "detail" (None and "" if there is no failure), and either "output" or "passed" and "total".
    """
    process = Process(job["program"], job["stdin"], job["seconds"])
    tests = receive_tests() if job["stdin"] is None else None
    counts = {"passed": 0, "total": 1}
    try:
        with _deadline(job["seconds"]):
            if tests is None:
                return {"failure": None, "detail": "", "output": process.wait()}
            return _Tests(process, tests, job["every"], counts).run()
    except Failed as failed:
        kind = failed.kind if failed.kind in KINDS else "exception"
        return {"failure": kind, "detail": failed.detail[:_MAX_DETAIL], **counts}
    except MemoryError:
        return {"failure": "memory", "detail": "the tests need more memory than there is", **counts}
    finally:
        process.kill()


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Failed("timeout")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # repeatedly, in case a test catches it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class _Tests:
    def __init__(self, process: Process, tests: Mapping[str, Any], every: bool, counts: dict[str, int]) -> None:
        self._process, self._every, self._counts = process, every, counts
        self._preamble, self._entry_point = tests["preamble"], tests["entry_point"]
        self._tree = ast.parse(tests["tests"])
        self._counts["total"] = max(1, sum(isinstance(node, ast.Assert) for node in ast.walk(self._tree)))
        self._failures: list[tuple[str, str]] = []

    def run(self) -> dict[str, Any]:
        random.seed(0)
        loaded = self._process.ask()
        if not isinstance(loaded, dict) or not isinstance(loaded.get("names"), list):
            raise _failed(loaded)
        namespace: dict[str, Any] = {"__name__": "tests"}
        exec(compile(self._preamble, "<preamble>", "exec", dont_inherit=True), namespace)
        names = [self._entry_point] if self._entry_point else loaded["names"]
        for name in names:
            if isinstance(name, str) and not hasattr(builtins, name) and (self._entry_point or name not in namespace):
                namespace[name] = Remote(self._process, candidate.MODULE, name)
        namespace |= {"__passed__": self._passed, "__failed__": self._failed}
        try:
            exec(compile(ast.fix_missing_locations(_Counted().visit(self._tree)), "<tests>", "exec"), namespace)
            if self._entry_point:
                namespace["check"](namespace[self._entry_point])
        except _Stop:
            pass
        except MemoryError:
            raise
        except Exception as error:
            self._note(error)
        if not self._counts["passed"] and not self._failures:
            self._failures.append(("wrong", "no assertion was reached"))
        self._counts["total"] = max(self._counts["total"], self._counts["passed"] + len(self._failures))
        kind, detail = self._failures[0] if self._failures else (None, "")
        return {"failure": kind, "detail": detail, **self._counts}

    def _passed(self) -> None:
        self._counts["passed"] += 1

    def _failed(self, error: Exception) -> None:
        self._note(error)
        if not self._every:
            raise _Stop

    def _note(self, error: Exception) -> None:
        failure = getattr(error, _FAILURE, None)
        self._failures.append(failure or ("wrong", f"{type(error).__name__}: {error}"[:_MAX_DETAIL]))


class _Counted(ast.NodeTransformer):
    """Makes every assertion report whether it holds."""

    _FORM = "try: pass\nexcept Exception as __error__: __failed__(__error__)\nelse: __passed__()"

    def visit_Assert(self, node: ast.Assert) -> ast.Try:
        (counted,) = ast.parse(self._FORM).body
        assert isinstance(counted, ast.Try)
        counted.body = [node]
        return ast.copy_location(counted, node)


class Remote:
    """An attribute of an object in the process of the program. Calling it runs the program."""

    def __init__(self, process: Process, number: int, name: str = "") -> None:
        self.__ask = process, number, name

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        process, number, name = self.__ask
        return _ask(process, number, name or "__call__", arguments, keywords)

    def __getattr__(self, name: str) -> Any:
        process, number, own = self.__ask
        if name.startswith("__"):
            raise AttributeError(name)
        if own:  # a function, or a class
            return getattr(_ask(process, number, own), name)
        return _ask(process, number, name)

    def __iter__(self) -> Iterator[Any]:
        process, number, name = self.__ask
        iterator = _ask(process, number, name or "__iter__", () if not name else None, {})
        if not isinstance(iterator, Remote):
            return iter(iterator)
        return iterator

    def __next__(self) -> Any:
        return self._special("__next__")

    def __len__(self) -> int:
        return self._special("__len__")

    def __getitem__(self, key: Any) -> Any:
        return self._special("__getitem__", key)

    def _special(self, name: str, *arguments: Any) -> Any:
        process, number, _ = self.__ask
        try:
            return _ask(process, number, name, arguments, {})
        except AttributeError as error:  # what Python raises if an object has no such method
            raise TypeError(str(error)) from None

    def __bool__(self) -> bool:
        return True


def _ask(
    process: Process, number: int, name: str, arguments: tuple[Any, ...] | None = None, keywords: Any = None
) -> Any:
    """Reads an attribute of an object of the program, or calls it."""
    given = None if arguments is None else values.encode((list(arguments), keywords), _number_of)
    reply = process.ask({"of": number, "name": name, "arguments": given})
    if not isinstance(reply, dict) or "value" not in reply:
        raise _exception(reply)
    try:
        value = values.decode(reply["value"], lambda found: Remote(process, found))
        changed = values.decode(reply["arguments"], lambda found: Remote(process, found))
    except Exception as error:
        raise Failed("exception", f"returned a value that cannot be read ({type(error).__name__})") from None
    for old, new in zip(arguments or (), changed or (), strict=False):
        _update(old, new)
    return value


def _number_of(value: Any) -> int:
    if isinstance(value, Remote):
        process, number, name = value._Remote__ask
        return _number_of(_ask(process, number, name)) if name else number
    raise TypeError(f"tests cannot pass a {type(value).__name__} to the program: only plain data")


def _update(old: Any, new: Any) -> None:
    """Gives a container the contents that the program has given to its copy."""
    if type(old) is not type(new) or old == new:
        return
    if isinstance(old, list):
        old[:] = new
    elif isinstance(old, dict | set):
        old.clear()
        old.update(new)


def _failed(reply: Any) -> Failed:
    found = reply if isinstance(reply, dict) else {}
    return Failed(str(found.get("failure", "exception")), str(found.get("detail", "")))


def _exception(reply: Any) -> Exception:
    """Returns the exception that the program has raised, of the same type if that is a built-in one."""
    failed = _failed(reply)
    kind = failed.kind if failed.kind in KINDS and failed.kind != "wrong" else "exception"
    error: Exception = ProgramError(failed.detail)
    named = getattr(builtins, str(reply.get("raised")) if isinstance(reply, dict) else "", None)
    if isinstance(named, type) and issubclass(named, Exception):
        with suppress(TypeError):  # UnicodeError needs more arguments
            error = named(failed.detail.partition(": ")[2])
    setattr(error, _FAILURE, (kind, failed.detail[:_MAX_DETAIL]))
    return error
