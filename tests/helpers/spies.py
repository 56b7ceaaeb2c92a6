"""A reward function whose score says whether a grader can access something; the completion says what it tries."""

import os
import socket
import subprocess
from pathlib import Path


def _network():
    socket.create_connection((os.environ["PROBE_HOST"], int(os.environ["PROBE_PORT"])), 2)


def _parent():
    parent = Path("/proc", str(os.getppid()))
    assert "bwrap" not in (parent / "cmdline").read_text().split("\0")[0]  # the sandbox itself has no secrets
    with (parent / "mem").open("rb") as memory:
        memory.seek(int((parent / "maps").read_text().split("-")[0], 16))
        assert len(memory.read(8)) == 8


def _processes():
    assert len([path for path in Path("/proc").iterdir() if path.name.isdigit()]) > 3


ROUTES = {
    "token": lambda: os.environ["HF_TOKEN"],
    "key": lambda: os.environ["AWS_SECRET_ACCESS_KEY"],
    "environment of the sandbox": lambda: Path("/proc/1/environ").read_text().index("hf_secret"),
    "network": _network,
    "home": lambda: (Path(os.environ["REAL_HOME"]) / "secret.txt").read_text(),
    "data beside the code": lambda: Path("run/config.yaml").read_text(),
    "write beside the code": lambda: Path("run/config.yaml").write_text("evil"),
    "write code": lambda: Path("my_module.py").write_text("evil"),
    "write site-packages": lambda: Path(os.__file__).write_text("evil") if os.access(os.__file__, os.W_OK) else 1 / 0,
    "write the root": lambda: Path("/evil").write_text("evil"),
    "memory of the parent": _parent,
    "processes": _processes,
    "mount": lambda: subprocess.run(["mount", "-t", "tmpfs", "none", "/tmp"], check=True, stderr=subprocess.DEVNULL),
    "settings of the kernel": lambda: Path("/proc/sys/kernel/core_pattern").open("a").close(),  # of all containers
    "private /tmp": lambda: Path("/tmp/note").write_text("mine"),
    "code": lambda: Path("my_module.py").read_text(),
    "sub-processes": lambda: subprocess.run(["true"], check=True),
    "shared memory": lambda: Path("/dev/shm/note").write_text("mine"),
}


def open_routes(completions, **_):
    return [float(_is_open(ROUTES[completion])) for completion in completions]


def _is_open(route):
    try:
        route()
    except Exception:
        return False
    return True
