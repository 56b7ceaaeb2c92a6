"""What grading children may access: the Python code that they need, and what `reward.allow` lists."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dapo_lightning.grading import sandbox

_VARIABLES = re.compile(
    "PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_.*|TZ|LD_LIBRARY_PATH|.*_NUM_THREADS|PYTHON.*"
    "|HF_HOME|HF_HUB_OFFLINE|XDG_CACHE_HOME"
)
_VARIABLES_OF_THE_NETWORK = re.compile("(?i:.*_proxy)|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE")
_PR_SET_DUMPABLE = 4


@dataclass(frozen=True)
class Permissions:
    """What children may access besides Python code.

    Without isolation (see `sandbox.why_not`), access is restricted only to environment variables and to the memory of
    this process.

    Args:
        everything: children can access everything that this process can.
        network: they can access the network.
        variables: names of environment variables that they receive.
        paths: files and folders that they may read.
        own_code: they may import modules of the current folder and of PYTHONPATH, not only installed packages.
        isolation: they are isolated where possible.
    """

    everything: bool = False
    network: bool = False
    variables: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()
    own_code: bool = True
    isolation: bool = True

    @staticmethod
    def of(allow: Sequence[str] | str | None) -> Permissions:
        """Reads `reward.allow`: "everything", "network", "home", names of environment variables, and paths.

        Raises:
            ValueError: naming the key, for anything else.
        """
        words = [allow] if isinstance(allow, str) else [str(word) for word in allow or ()]
        variables = tuple(word for word in words if re.fullmatch("[A-Z][A-Z0-9_]*", word))
        paths = [Path(word).expanduser().absolute() for word in words if _is_path(word)]
        paths += [Path.home()] if "home" in words else []
        unknown = [w for w in words if w not in ("everything", "network", "home", *variables) and not _is_path(w)]
        missing = [str(path) for path in paths if not path.exists()]
        if unknown or missing:
            raise ValueError(
                f"reward.allow: {', '.join(unknown or missing)} {'is not known' if unknown else 'does not exist'}. "
                "Choose among everything, network, home, names of environment variables (OPENAI_API_KEY) and paths "
                "(./words.txt)."
            )
        return Permissions("everything" in words, "network" in words, variables, tuple(paths))

    @property
    def isolated(self) -> bool:
        """Whether children run in isolation."""
        return self.isolation and not self.everything and sandbox.why_not() is None

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Returns the command that runs `arguments` with these permissions."""
        if not self.isolated:
            return list(arguments)
        visible = [*_python_code(self.own_code), *self.paths]
        return sandbox.isolated(arguments, visible, Path.cwd() if self.own_code else None, self.network)

    def environment(self) -> dict[str, str]:
        """Returns the environment variables of children, except PYTHONPATH."""
        if self.everything:
            return dict(os.environ)
        kept = {name: value for name, value in os.environ.items() if self._passes(name)}
        if self.isolated and Path.home() not in self.paths:
            kept["HOME"] = "/tmp"
        return kept

    def _passes(self, name: str) -> bool:
        is_of_network = self.network and _VARIABLES_OF_THE_NETWORK.fullmatch(name)
        return bool(name in self.variables or _VARIABLES.fullmatch(name) or is_of_network)

    def hide_memory(self) -> None:
        """Prevents children that are not isolated from reading the memory of this process, which has the same user."""
        if sys.platform == "linux" and not self.everything and not self.isolated:
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(0))


def _is_path(word: str) -> bool:
    return "/" in word or word.startswith((".", "~"))


def _python_code(own: bool) -> Iterator[Path]:
    """Yields everything that a child may import: the whole folders of the interpreter and this package, but, if `own`,
    only modules and packages from other folders on sys.path and from the current folder, because these may also contain
    data, logs and keys."""
    whole = {Path(path) for path in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    executable = Path(sys.executable)
    while executable.is_symlink():  # each link must be visible, so that the next one is found
        executable = Path(os.path.abspath(executable.parent / executable.readlink()))  # noqa: PTH100 (follows one link only)
        whole.add(executable.parents[1])
    whole |= {Path(path) for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if path}
    yield from whole
    yield Path(__file__).parents[1]
    for entry in {Path(path).absolute() for path in [*sys.path, ""]} if own else ():
        if entry.is_file():
            yield entry
        elif entry.is_dir() and not any(entry.is_relative_to(path) for path in whole):
            yield from (path for path in entry.iterdir() if _is_code(path))


def _is_code(path: Path) -> bool:
    if path.name.startswith((".", "__pycache__")):
        return False
    if path.is_file():
        return path.suffix in (".py", ".pyc", ".so")
    return any(True for pattern in ("*.py", "*.so", "*/*.py") for _ in path.glob(pattern))
