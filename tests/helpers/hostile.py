"""Hostile programs: what each tries, and what becomes of it. Most of them define `f`, which `TESTS` call.

`SAFE` programs report whether an attempt has succeeded: they pass if it has not.
"""

from __future__ import annotations

TESTS = "assert f(1) == 2\nassert f(2) == 3\nassert f([1]) == [1, 1]"
RIGHT = "def f(x):\n    return x + 1 if isinstance(x, int) else x + x\n"
SAFE_TEST = "assert f() == 'safe'"


def _safe(attempt: str) -> str:
    """A program that tries something and says whether it was possible."""
    lines = "\n".join(f"        {line}" for line in attempt.splitlines())
    return f"def f():\n    try:\n{lines}\n    except Exception:\n        return 'safe'\n    return 'done'\n"


# Programs that must not be called right: name -> (program, kind of failure).
WRONG = {
    # processes
    "fork": ("import os\nos.fork()\n" + RIGHT, "forbidden"),
    "fork bomb": ("import os\nwhile True:\n    os.fork()", "forbidden"),
    "fork bomb in a function": ("import os\ndef f(x):\n    while True:\n        os.fork()", "forbidden"),
    "vfork by number": ("import ctypes\nctypes.CDLL(None).syscall(58)\n" + RIGHT, "forbidden"),
    "clone by number": ("import ctypes\nctypes.CDLL(None).syscall(56, 17, 0, 0, 0, 0)\n" + RIGHT, "forbidden"),
    "shell": ("import os\nos.system('echo evil')\n" + RIGHT, "forbidden"),
    "subprocess": ("import subprocess\nsubprocess.run(['true'])\n" + RIGHT, "forbidden"),
    "exec": ("import os\nos.execv('/bin/true', ['true'])", "forbidden"),
    "multiprocessing": ("from multiprocessing import Process\nProcess(target=print).start()\n" + RIGHT, "forbidden"),
    "daemon": ("import os\nif os.fork() == 0:\n    os.setsid()\n    while True: pass\n" + RIGHT, "forbidden"),
    "threads": ("import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=[99]).start()",
                None),
    # the network
    "TCP": ("import socket\nsocket.create_connection(('127.0.0.1', PORT), 1)\n" + RIGHT, "forbidden"),
    "UDP": ("import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n" + RIGHT, "forbidden"),
    "web": ("import urllib.request\nurllib.request.urlopen('http://127.0.0.1:PORT')\n" + RIGHT, None),
    # the kernel
    "ptrace": ("import ctypes\nctypes.CDLL(None).ptrace(16, 1, 0, 0)\n" + RIGHT, "forbidden"),
    "mount": ("import ctypes\nctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None)\n" + RIGHT, "forbidden"),
    "unshare": ("import ctypes\nctypes.CDLL(None).unshare(0x10000000)\n" + RIGHT, "forbidden"),
    "chroot": ("import os\nos.chroot('/tmp')\n" + RIGHT, "forbidden"),
    "io_uring": ("import ctypes\nctypes.CDLL(None).syscall(425, 8, 0)\n" + RIGHT, "forbidden"),
    "bpf": ("import ctypes\nctypes.CDLL(None).syscall(321, 0, 0, 0)\n" + RIGHT, "forbidden"),
    "memory of another process": ("import ctypes\nctypes.CDLL(None).syscall(310, 1, 0, 0, 0, 0, 0)", "forbidden"),
    "anonymous file": ("import os\nos.memfd_create('x')\n" + RIGHT, "forbidden"),
    # floods
    "memory": ("x = 'x' * 10**11\n" + RIGHT, "memory"),
    "memory, slowly": ("x = []\nwhile True:\n    x.append(bytearray(10**6))", "memory"),
    "memory in a function": ("def f(x):\n    return [0] * 10**10", "memory"),
    "output": ("while True:\n    print('x' * 10**6)", "output"),
    "output in a function": ("def f(x):\n    while True:\n        print('x' * 10**6)", "output"),
    "output by number": ("import os\nwhile True:\n    os.write(1, b'x' * 10**6)", "output"),
    "shared memory of System V": ("import ctypes\nctypes.CDLL(None).shmget(0, 10**9, 0o1600)\n" + RIGHT, "forbidden"),
    "message queue": ("import ctypes\nctypes.CDLL(None).msgget(0, 0o1600)\n" + RIGHT, "forbidden"),
    "long file": ("open('/tmp/x', 'wb').write(b'x' * 10**8)\n" + RIGHT, "output"),
    "many files": ("for n in range(10**6):\n    open(f'/tmp/{n}', 'w').close()", "exception"),
    "full disk": ("for n in range(99):\n    open(f'/tmp/{n}', 'wb').write(b'x' * 10**6)\n" + RIGHT, "exception"),
    "open files": ("import os\nfiles = [os.open('/dev/null', 0) for n in range(9999)]\n" + RIGHT, "exception"),
    "long result": ("def f(x):\n    return 'x' * 10**7", "exception"),
    "deep result": ("def f(x):\n    y = []\n    for _ in range(10**5): y = [y]\n    return y", "exception"),
    "result that contains itself": ("def f(x):\n    y = []\n    y.append(y)\n    return y", "exception"),
    "many objects": ("def f(x):\n    return [object() for _ in range(10**5)]", "memory"),
    "huge number": ("def f(x):\n    return 10 ** 10**5", "exception"),
    # time
    "endless loop": ("while True:\n    pass", "timeout"),
    "endless call": ("def f(x):\n    while True:\n        pass", "timeout"),
    "sleep": ("import time\ndef f(x):\n    time.sleep(99)", "timeout"),
    "caught signals": ("import signal, time\nfor n in range(1, 64):\n    try: signal.signal(n, signal.SIG_IGN)\n"
                       "    except Exception: pass\ntime.sleep(99)", "timeout"),
    "power": ("def f(x):\n    return 7 ** 7 ** 7 ** 7", "timeout"),
    "closed channel": ("import os, time\nos.close(3)\ntime.sleep(99)", None),
    # ends
    "sys.exit(0)": ("import sys\nsys.exit(0)", "exception"),
    "os._exit(0)": ("import os\nos._exit(0)", "exception"),
    "os._exit(0) in a function": ("import os\ndef f(x):\n    os._exit(0)", "exception"),
    "SystemExit in a function": ("def f(x):\n    raise SystemExit(0)", "exception"),
    "exit at exit": ("import atexit, os\natexit.register(os._exit, 0)\nraise ValueError", "exception"),
    "segmentation fault": ("import ctypes\nctypes.string_at(0)", "exception"),
    "deep recursion": ("import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x)", None),
    "abort": ("import os\nos.abort()", "exception"),
    # forged verdicts
    "__eq__": ("class E:\n    def __eq__(self, other): return True\ndef f(x): return E()", "wrong"),
    "an int with __eq__": ("class E(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
                           "def f(x): return E(9)", "wrong"),
    "a list with __eq__": ("class E(list):\n    def __eq__(self, other): return True\ndef f(x): return E()", "wrong"),
    "patched builtins": ("import builtins\nbuiltins.AssertionError = Exception\nbuiltins.all = lambda x: True\n"
                         "def f(x): return 0", "wrong"),
    "more patched builtins": ("import builtins\nbuiltins.isinstance = lambda *x: True\nbuiltins.len = lambda x: 0\n"
                              "def f(x): return 0", None),
    "AssertionError caught": ("import sys\nsys.excepthook = lambda *x: None\ndef f(x):\n    raise AssertionError",
                              "exception"),
    "trace function": ("import sys\nsys.settrace(lambda *x: None)\ndef f(x):\n"
                       "    sys._getframe(1).f_trace = None\n    return 0", "wrong"),
    "frames": ("import sys\ndef f(x):\n    frame = sys._getframe()\n    found = []\n    while frame:\n"
               "        found.append(repr(frame.f_locals))\n        frame = frame.f_back\n"
               "    return 2 if 'assert' in ''.join(found) else 0", "wrong"),
    "all objects": ("import gc\ndef f(x):\n    found = [o for o in gc.get_objects() if 'assert f' in str(o)[:10**5]]\n"
                    "    return 2 if found else 0", "wrong"),
    "a written verdict": ("import os, json\nverdict = {'failure': None, 'detail': '', 'passed': 3, 'total': 3}\n"
                          "body = json.dumps(verdict).encode()\n"
                          "for n in range(64):\n    try: os.write(n, len(body).to_bytes(4, 'big') + body)\n"
                          "    except OSError: pass\n" + "def f(x): return 0", "exception"),
    "a reply with more": ("import os, json\nbody = json.dumps({'names': ['f', 'check', 'isinstance']}).encode()\n"
                          "os.write(3, len(body).to_bytes(4, 'big') + body)\ndef f(x): return 0", "exception"),
    "no message": ("import os\nos.write(3, b'\\x00\\x00\\x00\\x02{}' * 9)\ndef f(x): return 0", "exception"),
    "endless message": ("import os\nos.write(3, b'\\xff\\xff\\xff\\xff')\nwhile True: os.write(3, b'x' * 999)",
                        "exception"),
    "shadowed names": ("def AssertionError(*x): return 0\ndef isinstance(*x): return True\ndef check(*x): pass\n"
                       "def f(x): return 0", "wrong"),
    "killing the tester": ("import os, signal\nfor n in range(2, 999):\n    try: os.kill(n, signal.SIGKILL)\n"
                           "    except OSError: pass\nfor n in (0, -1):\n    try: os.kill(n, signal.SIGKILL)\n"
                           "    except OSError: pass\ndef f(x): return 0", None),
    # writing
    "write site-packages": ("import os\nopen(os.path.dirname(os.__file__) + '/evil.py', 'w')\n" + RIGHT, "forbidden"),
    "write the package": ("import dapo_lightning.programs as p\nopen(p.__file__, 'a')\n" + RIGHT, "forbidden"),
    "write the root": ("open('/evil', 'w')\n" + RIGHT, "forbidden"),
    "write /dev": ("open('/dev/evil', 'w')\n" + RIGHT, "forbidden"),
    "write /dev/shm": ("open('/dev/shm/evil', 'w')\n" + RIGHT, "forbidden"),
    # code
    "syntax": ("def f(x) return x", "syntax"),
    "NUL": ("def f(x):\n    return '\0'", "syntax"),
    "deep code": ("x = " + "(" * 5000 + ")" * 5000, None),
    "nothing": ("", "no_code"),
}  # fmt: skip

# Attempts that must not succeed: name -> what is tried.
SAFE = {
    "home": "open('HOME/secret.txt').read()",
    "run folder": "open('WORK/run/config.yaml').read()",
    "environment": "import os\nos.environ['HF_TOKEN']",
    "any environment": "import os\nassert os.environ\nassert len(os.environ)",
    "initial environment": "open('/proc/self/environ', 'rb').read()",
    "/proc of the parent": "open('/proc/1/environ', 'rb').read()",
    "other processes": "import os\nassert os.listdir('/proc')",
    "memory of the parent": "import os\nopen(f'/proc/{os.getppid()}/mem', 'rb').read(1)",
    "shared memory": "from multiprocessing import shared_memory\nshared_memory.SharedMemory(create=True, size=9)",
    "files of a neighbour": "import os\nassert 'neighbour' in os.listdir('/tmp')",
    "module of the run": "import my_module",
    "password file of shadow": "open('/etc/shadow').read()",
    "other tests": "import gc\nassert any('neighbour' in str(o) for o in gc.get_objects() if isinstance(o, str))",
    "being root": "import os\nos.setuid(1)",
    "a new namespace by thread": "open('/proc/self/uid_map', 'w')",
    "raising the limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\nx = bytearray(10**10)",
}
SAFE_PROGRAMS = {name: _safe(attempt) for name, attempt in SAFE.items()}
