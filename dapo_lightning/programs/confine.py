"""What the kernel forbids a program: Linux namespaces, resource limits, and a filter of system calls.

bubblewrap has already taken the network, the user's files and other processes away from everything in this file. Each
program gets process, IPC and mount namespaces of its own in addition, in which there is nothing but itself. The filter
kills a program that tries to start a process, to open a socket, or to use calls that are of use only to attackers.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import resource
import signal
import struct
from collections.abc import Sequence
from pathlib import Path

_NEWNS, _NEWIPC, _NEWUSER, _NEWPID = 0x20000, 0x8000000, 0x10000000, 0x20000000  # unshare
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC = 1, 2, 4, 8, 32, 4096, 16384  # mount
_DETACH = 2  # umount2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_TMP = b"size=16m,nr_inodes=1024,mode=1777"
FILE_BYTES = 2**20  # the longest file, and the longest output

_libc = ctypes.CDLL(None, use_errno=True)


def _call(function: str, *arguments: int | bytes | None) -> None:
    converted = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in arguments]
    if getattr(_libc, function)(*converted) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def hide() -> None:
    """Makes the memory of this process, and of those that it forks, unreadable for other processes of the user."""
    _call("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)


def enter_namespaces() -> list[Path]:
    """Moves this process, which bubblewrap isolates, to user and mount namespaces in which /proc and /dev/shm are empty
    and /dev is read-only. Returns the paths below /tmp at which something is mounted, such as Python.

    Raises:
        OSError: if the system does not permit it.
    """
    user, group = os.getuid(), os.getgid()
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    _call("unshare", _NEWUSER | _NEWNS)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    for folder in (b"/proc", b"/dev/shm"):
        _call("mount", b"none", folder, b"tmpfs", _RDONLY | _NOSUID | _NODEV | _NOEXEC, b"size=4k")
    kept = os.statvfs("/dev").f_flag & (_NOSUID | _NODEV | _NOEXEC)  # flags that may not be lifted here
    _call("mount", None, b"/dev", None, _REMOUNT | _BIND | _RDONLY | kept, None)
    return sorted(Path(_unescaped(path)) for path in mounted if path.startswith("/tmp/"))


def _unescaped(path: str) -> str:
    return re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), path)


def enter_namespaces_of_a_program(below_tmp: Sequence[Path]) -> None:
    """Gives this process a /tmp of its own, and processes that it forks from now on a process namespace.

    Args:
        below_tmp: mounted paths that stay visible. Otherwise, /tmp is empty.
    """
    _call("unshare", _NEWPID | _NEWIPC | _NEWNS)
    if below_tmp:
        _call("mount", b"/tmp", b"/dev/shm", None, _BIND | _REC, None)  # where they can be found for a moment
    _call("mount", b"none", b"/tmp", b"tmpfs", _NOSUID | _NODEV, _TMP)
    for path in below_tmp:
        source = Path("/dev/shm") / path.relative_to("/tmp")
        folder = path if source.is_dir() else path.parent
        folder.mkdir(parents=True, exist_ok=True)
        if folder != path:
            path.touch()
        _call("mount", bytes(source), bytes(path), None, _BIND | _REC, None)
    if below_tmp:
        _call("umount2", b"/dev/shm", _DETACH)
    os.chdir("/tmp")


def pages() -> int:
    """The size of the address space of this process, in pages."""
    return int(Path("/proc/self/statm").read_text().split()[0])


def limit_memory(own_pages: int, megabytes: int) -> None:
    """Limits the address space of this process to `own_pages`, its size at the beginning, and `megabytes` more."""
    size = own_pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def confine(seconds: float) -> None:
    """Takes from this process all privileges, and the right to start processes and to open sockets, irrevocably.

    Args:
        seconds: of processor time. (The tester limits the time that passes.)
    """
    for kind, limit in (
        (resource.RLIMIT_CPU, 2 * int(seconds) + 1),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))
    header, nothing = struct.pack("=Ii", 0x20080522, 0), bytes(24)  # _LINUX_CAPABILITY_VERSION_3
    _call("capset", header, nothing)
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    program = _filter()
    buffer = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    _call("prctl", _PR_SET_SECCOMP, 2, described, 0, 0)


# Numbers of system calls: those that start processes, and those that no program needs.
_ARCHITECTURES = {
    "x86_64": (0xC000003E, 56, (57, 58, 59, 322, 41, 101, 165, 166, 155, 161, 428, 429, 430, 442, 272, 308, 321, 298,
                                248, 249, 250, 323, 425, 319, 447, 310, 311, 246, 175, 313, 304, 135, 29, 68, 64)),
    "aarch64": (0xC00000B7, 220, (221, 281, 198, 117, 40, 39, 41, 51, 428, 429, 430, 442, 97, 268, 280, 241,
                                  217, 218, 219, 282, 425, 279, 447, 270, 271, 104, 105, 273, 265, 92, 194, 186, 190)),
}  # fmt: skip
# fork, vfork (x86_64), execve, execveat, socket, ptrace, mount, umount2, pivot_root, chroot, open_tree, move_mount,
# fsopen, mount_setattr, unshare, setns, bpf, perf_event_open, add_key, request_key, keyctl, userfaultfd,
# io_uring_setup, memfd_create, memfd_secret, process_vm_readv, process_vm_writev, kexec_load, init_module,
# finit_module, open_by_handle_at, personality, shmget, msgget, semget (their memory is not limited otherwise)
_CLONE3 = 435
_CLONE_THREAD = 0x10000
_ALLOW, _KILL, _NO_SUCH_CALL = 0x7FFF0000, 0x80000000, 0x00050000 | 38


def supported() -> bool:
    """Whether the filter knows the processor."""
    return platform.machine() in _ARCHITECTURES


def _filter() -> bytes:
    """Returns the filter as instructions of classic BPF (see linux/filter.h and seccomp(2))."""
    architecture, clone, forbidden = _ARCHITECTURES[platform.machine()]
    load, equals, least, has_bits, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    rest = [(equals, len(forbidden) - n, 0, number) for n, number in enumerate(forbidden)]
    code = [
        (load, 0, 0, 4),
        (equals, 1, 0, architecture),
        (answer, 0, 0, _KILL),
        (load, 0, 0, 0),
        (least, 0, 1, 0x40000000),  # the calls of x32 have other numbers
        (answer, 0, 0, _KILL),
        (equals, 0, 1, _CLONE3),  # its flags cannot be read here; without it, the C library uses clone
        (answer, 0, 0, _NO_SUCH_CALL),
        (equals, 0, 3, clone),
        (load, 0, 0, 16),
        (has_bits, 0, len(forbidden) + 2, _CLONE_THREAD),
        (answer, 0, 0, _ALLOW),
        *rest,
        (answer, 0, 0, _ALLOW),
        (answer, 0, 0, _KILL),
    ]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)
