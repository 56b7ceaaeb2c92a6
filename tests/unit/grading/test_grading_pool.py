"""What hostile items do to the pool, and what they must not do to others. The graders live in a module of their own,
for a child that imported this one would import pytest each time."""

import asyncio
import math
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from dapo_lightning.grading import child, sandbox
from dapo_lightning.grading.child import frame
from dapo_lightning.grading.permissions import Permissions
from dapo_lightning.grading.pool import GradingError, GradingPool, Outcome
from dapo_lightning.grading.process import Child

GRADERS = '''
import gc, os, re, signal, stat, subprocess, sys, threading, time

KEPT = []

def build(greeting="hello"):
    """A grader that does what the item says."""
    return lambda item: ACTIONS[item[0]](*item[1:]) if isinstance(item, (tuple, list)) else f"{greeting} {item}"

def loop():
    while True:
        pass

def hang_in_c():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    re.match(r"(a+)+$", "a" * 60 + "b")

def grow():
    things = []
    while True:
        things.append(bytes(1000))

def hoard():
    """Takes the last byte, and does not give it back."""
    gc.disable()
    KEPT.append(None)
    while True:
        KEPT[0] = (KEPT[0],)

def keep(megabytes):
    KEPT.append(b"x" * (megabytes << 20))
    return len(KEPT)

def recurse():
    return recurse()

def fail(message):
    raise ValueError(message)

class Unspeakable(Exception):
    def __str__(self):
        raise KeyError("no")

def fail_unspeakably():
    raise Unspeakable

def chat(num_bytes):
    sys.stdout.write("o" * num_bytes)
    sys.stderr.write("e" * num_bytes)
    os.write(1, b"o" * num_bytes)
    return sys.stdin.read()

def nest(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value

def sockets():
    """The descriptors that lead to the parent."""
    return [fd for fd in range(3, 100) if is_socket(fd)]

def is_socket(fd):
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False

def write_rubbish(data):
    for fd in sockets():
        os.write(fd, data)
    return "written"

def close_socket():
    for fd in sockets():
        os.close(fd)
    time.sleep(60)

def start_sleeper(note, then):
    sleeper = subprocess.Popen(["sleep", "60"])
    with open(note, "w") as file:
        file.write(f"{os.getpid()} {sleeper.pid}\\n")
    return ACTIONS[then]()

def die_later(seconds):
    threading.Timer(seconds, os._exit, [5]).start()
    return "not yet"

def speak_later(seconds):
    threading.Timer(seconds, write_rubbish, [b"unasked"]).start()
    return "not yet"

def sleep(seconds):
    time.sleep(seconds)
    return seconds

ACTIONS = {
    "loop": loop, "hang": hang_in_c, "grow": grow, "keep": keep, "recurse": recurse, "fail": fail, "chat": chat,
    "nest": nest, "rubbish": write_rubbish, "close": close_socket, "sleeper": start_sleeper, "sleep": sleep,
    "die later": die_later, "speak later": speak_later, "unspeakable": fail_unspeakably,
    "hoard": hoard,
    "allocate": lambda: bytearray(10**12),
    "exit": lambda: os._exit(3), "leave": lambda: sys.exit("bye"),
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "nan": lambda: [float("nan"), float("inf"), -float("inf")],
    "set": lambda: {1, 2}, "long": lambda size: "x" * size, "surrogate": lambda: "\\ud800\\u00e9",
    "pid": os.getpid, "hash": lambda: hash("order of sets"), "modules": lambda: sorted(sys.modules),
}

not_callable = 7
def build_noted(folder):
    """Leaves a note in the folder, once it is built."""
    open(os.path.join(folder, str(os.getpid())), "w").close()
    return build()
def build_slowly():
    time.sleep(0.25)
    return build()
def build_nothing(): return None
def build_badly(**options): raise OSError(f"no data for {options}")
def build_and_exit(): os._exit(9)
def build_twice(flag):
    if os.path.exists(flag):
        raise FileExistsError(flag)
    return lambda item: os._exit(1) if item == "exit" else item
'''

SECONDS = 0.3

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory limits and /proc")


@pytest.fixture(scope="module", autouse=True)
def graders(tmp_path_factory):
    """A folder that is on this process's path only: children find it because they are told."""
    folder = tmp_path_factory.mktemp("graders")
    (folder / "hostile_graders.py").write_text(GRADERS)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def make_pool(num_workers=1, seconds=SECONDS, megabytes=64, name="build", allow=("everything",), **options):
    """Not isolated, because most tests look at the children from outside."""
    return closing(GradingPool(f"hostile_graders.{name}", options, num_workers, seconds, megabytes, allow))


@pytest.fixture(scope="module")
def pool(graders):
    with make_pool(num_workers=2) as pool:
        pool.start()
        yield pool


@pytest.fixture(scope="module", params=[(), ("everything",)], ids=["isolated", "not isolated"])
def either_pool(graders, request):
    if not request.param and (reason := sandbox.why_not()):
        pytest.skip(reason)
    with make_pool(num_workers=2, allow=request.param) as pool:
        pool.start()
        yield pool


@pytest.mark.parametrize(
    ("item", "failure", "detail"),
    [
        (("loop",), "timeout", ""),
        (("hang",), "timeout", ""),
        (("sleep", 60), "timeout", ""),
        (("allocate",), "memory", ""),
        (("grow",), "memory", ""),
        (("hoard",), "memory", ""),
        (("keep", 100), "memory", ""),
        (("exit",), "crash", "exit code 3"),
        (("segfault",), "crash", "signal 11"),
        (("close",), "crash", "signal 9"),
        (("rubbish", b"rubbish"), "crash", "not an answer"),
        (("rubbish", b"\0" * 8), "crash", "not an answer"),
        (("rubbish", b"\0\0\0\0\0\0\xff\xff"), "crash", "not an answer"),
        (("rubbish", b"\n"), "crash", "not an answer"),
        (("rubbish", b"9" * 1_100_000), "crash", "not an answer"),
        (("rubbish", b"dapo\xff\xff\xff\xff"), "crash", "not an answer"),
        (("rubbish", b"{}\n"), "crash", "not an answer"),
        (("rubbish", b"[[]]\n"), "crash", "not an answer"),
        (("rubbish", b"[" * 100_000 + b"\n"), "crash", "not an answer"),
        (("rubbish", b"\xff\n"), "crash", "not an answer"),
        (("rubbish", b'[77, 0, null, ""]\n'), "crash", "not an answer"),
        (("recurse",), "error", "RecursionError: maximum recursion"),
        (("fail", "no " * 10_000), "error", "ValueError: no no"),
        (("unspeakable",), "error", "Unspeakable"),
        (("leave",), "error", "SystemExit: bye"),
        (("set",), "error", "TypeError"),
        (("nest", 100_000), "error", "RecursionError"),
        (("long", 1_000_001), "error", "more than 1000000"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_a_hostile_item_fails_alone(either_pool, item, failure, detail):
    before, outcome, after = either_pool.submit(["before", item, "after"]).result()
    assert (before, after) == (Outcome("hello before", None), Outcome("hello after", None))
    assert (outcome.value, outcome.failure) == (None, failure)
    assert outcome.detail.startswith(detail) or detail in outcome.detail
    assert len(outcome.detail) <= 500


@pytest.mark.parametrize(
    ("item", "value"),
    [
        (("nest", 3), [[[[]]]]),
        (("long", 900_000), "x" * 900_000),
        (("surrogate",), "?é"),  # no file could hold the half
        ("\0\ud800", "hello \0?"),
    ],
    ids=lambda value: str(value)[:20].encode("ascii", "replace").decode(),
)
def test_a_strange_item_that_is_none_the_less_graded(pool, item, value):
    assert pool.submit([item]).result() == [Outcome(value, None)]


def test_floats_that_are_not_numbers_survive(pool):
    (outcome,) = pool.submit([("nan",)]).result()
    assert math.isnan(outcome.value[0]) and outcome.value[1:] == [math.inf, -math.inf]


def test_order_and_count_with_mixed_outcomes(pool):
    items = ["a", ("fail", "b"), "c", ("exit",), ("loop",), "f", ("set",), ("allocate",), "i", ("segfault",)] * 2
    outcomes = pool.submit(items).result()
    failures = [None, "error", None, "crash", "timeout", None, "error", "memory", None, "crash"] * 2
    assert [outcome.failure for outcome in outcomes] == failures
    assert [outcome.value for outcome in outcomes if not outcome.failure] == [
        "hello a",
        "hello c",
        "hello f",
        "hello i",
    ] * 2
    assert pool.submit([]).result() == []


def test_good_items_among_many_bad_ones_keep_their_values(pool):
    draw = random.Random(0)
    bad = [("exit",), ("segfault",), ("allocate",), ("fail", "x"), ("loop",), ("rubbish", b"rubbish"), ("close",)]
    expected = {"exit": "crash", "segfault": "crash", "rubbish": "crash", "close": "crash", "allocate": "memory",
                "fail": "error", "loop": "timeout"}  # fmt: skip
    items = [draw.choice(bad) if draw.random() < 0.3 else number for number in range(80)]
    outcomes = pool.submit(items).result()
    assert len(outcomes) == len(items)
    for item, outcome in zip(items, outcomes, strict=True):
        if isinstance(item, int):
            assert outcome == Outcome(f"hello {item}", None)
        else:
            assert outcome.failure == expected[item[0]], (item, outcome)


def test_several_threads_share_a_pool(pool):
    results = {}

    def submit(name):
        items = [f"{name} {number}" if number != 50 else ("exit",) for number in range(300)]
        results[name] = [outcome.value for outcome in pool.submit(items).result()]

    threads = [threading.Thread(target=submit, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    expected = {name: [f"hello {name} {number}" if number != 50 else None for number in range(300)] for name in "abcd"}
    assert results == expected


def test_submit_returns_at_once_and_a_slow_item_blocks_few(pool):
    begun = time.perf_counter()
    slow = pool.submit([("sleep", 0.25)])
    quick = pool.submit(list(range(100)))
    assert time.perf_counter() - begun < 0.1
    quick.result()
    assert time.perf_counter() - begun < 0.2
    assert slow.result() == [Outcome(0.25, None)]


def test_the_items_of_one_submit_are_shared_among_the_workers(pool):
    begun = time.perf_counter()
    assert pool.submit([("sleep", 0.1)] * 8).result() == [Outcome(0.1, None)] * 8
    assert 0.4 <= time.perf_counter() - begun < 0.7


def test_sizes_multiply_the_limit():
    with make_pool(seconds=0.1) as pool:
        outcomes = pool.submit([("sleep", 0.25)] * 3, sizes=[1, 10, 2]).result()
        assert [outcome.failure for outcome in outcomes] == ["timeout", None, "timeout"]
        for sizes in ([1], [1, 1, 0]):
            with pytest.raises(ValueError, match="3 items need as many positive sizes"):
                pool.submit([1, 2, 3], sizes=sizes)


def test_the_limit_is_each_item_s_own():
    with make_pool(seconds=0.25) as pool:
        outcomes = pool.submit([("sleep", 0.05)] * 12).result()
    assert outcomes == [Outcome(0.05, None)] * 12


def test_large_items_and_large_answers_fill_both_directions(pool):
    items = ["x" * 600_000 + str(number) for number in range(40)]
    assert [outcome.value for outcome in pool.submit(items).result()] == [f"hello {item}" for item in items]


def test_answers_are_not_lost_when_a_child_ends_with_items_still_to_be_sent():
    with make_pool(seconds=5.0) as pool:
        outcomes = pool.submit(["small", ("exit",), "x" * 900_000] * 8).result()
    assert [outcome.failure for outcome in outcomes] == [None, "crash", None] * 8


class Unreadable:
    def __reduce__(self):
        return os.listdir, ("/no/such/folder",)


def test_an_item_that_the_child_cannot_read_is_an_error(pool):
    unreadable, good = pool.submit([Unreadable(), "good"]).result()
    assert unreadable.failure == "error" and unreadable.detail.startswith("FileNotFoundError")
    assert good == Outcome("hello good", None)


def test_an_item_that_cannot_be_sent_is_refused_at_once(pool):
    with pytest.raises((AttributeError, TypeError)):
        pool.submit([lambda: None])


def test_memory_kept_by_earlier_items_is_not_blamed_on_a_later_one():
    with make_pool(megabytes=100) as pool:
        assert pool.submit([("keep", 40)] * 4).result() == [Outcome(1, None), Outcome(2, None)] * 2
        assert pool.submit([("keep", 101), "good"]).result() == [Outcome(None, "memory"), Outcome("hello good", None)]


def test_a_child_whose_parent_ends_meanwhile_says_nothing(graders):
    """What it said would stand below the error that the user is to read."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "dapo_lightning.grading.child", str(theirs.fileno()), str(os.getpid())]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(graders), *sys.path])}
    with theirs:
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, env=environment)
    ours.sendall(frame(("hostile_graders.build_slowly", {}, 100)))
    ours.close()
    assert process.communicate(timeout=20)[1] == b"" and process.returncode == 1


def test_a_machine_without_proc_is_told_what_needs_it(monkeypatch):
    def read_text(path):
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr(Path, "read_text", read_text)
    with pytest.raises(ValueError, match=r"reward\.megabytes needs /proc, which cannot be read here .*mount it"):
        child._limit_memory(100)


@pytest.mark.parametrize("action", ["die later", "speak later"])
def test_a_child_that_ends_between_submits_is_replaced(action):
    with make_pool() as pool:
        assert pool.submit([(action, 0.05)]).result() == [Outcome("not yet", None)]
        time.sleep(0.2)
        assert pool.submit(["good"]).result() == [Outcome("hello good", None)]


def test_a_spare_child_that_has_ended_is_not_given_an_item(tmp_path):
    with make_pool(name="build_noted", folder=str(tmp_path)) as pool:
        (pid,) = (outcome.value for outcome in pool.submit([("pid",)]).result())
        assert wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        time.sleep(0.05)
        (spare,) = {int(note.name) for note in tmp_path.iterdir()} - {pid}
        os.kill(spare, 9)
        assert wait_until(lambda: not alive(spare))
        assert [outcome.failure for outcome in pool.submit([("exit",), "good"]).result()] == ["crash", None]


def test_signals_to_the_whole_job_are_the_parent_s_to_answer(tmp_path):
    """SLURM sends them to every process, when a run has yet to finish its step."""
    with make_pool(name="build_noted", folder=str(tmp_path)) as pool:
        (pid,) = (outcome.value for outcome in pool.submit([("pid",)]).result())
        for number in (signal.SIGTERM, signal.SIGUSR1):
            os.kill(pid, number)
            assert [outcome.value for outcome in pool.submit([("pid",)]).result()] == [pid]


def test_a_child_that_is_just_starting_outlives_them_too(graders):
    child = Child(frame(("hostile_graders.build", {}, 100)), Permissions(everything=True))
    os.kill(child._process.pid, signal.SIGTERM)
    asyncio.run(child.wait_until_ready("build"))
    child.end()


@pytest.mark.parametrize("then", ["loop", "exit", "allocate"])
def test_what_a_grader_started_goes_with_it(pool, tmp_path, then):
    (outcome,) = pool.submit([("sleeper", str(tmp_path / "pids"), then)]).result()
    assert outcome.failure is not None
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    assert wait_until(lambda: not any(alive(pid) for pid in pids), 1.0)


def test_close_leaves_no_child_and_no_thread_and_fails_what_is_still_to_come():
    others, threads, files = children(), threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    with make_pool(num_workers=2, seconds=60.0) as pool:
        pool.start()
        assert wait_until(lambda: len(children() - others) == 3)
        waiting = [pool.submit([("hang",)]), pool.submit([("loop",)]), pool.submit(["never"] * 10)]
        time.sleep(0.1)
        begun = time.perf_counter()
    assert time.perf_counter() - begun < 1.0
    assert children() == others and threading.active_count() == threads
    assert len(list(Path("/proc/self/fd").iterdir())) == files
    for pending in waiting:
        with pytest.raises(GradingError, match="closed"):
            pending.result()
    for use in (pool.start, lambda: pool.submit(["x"])):
        with pytest.raises(GradingError, match="closed"):
            use()
    pool.close()


def test_close_puts_idle_children_away():
    files = len(list(Path("/proc/self/fd").iterdir()))
    with make_pool(num_workers=2) as pool:
        pool.submit(["x"]).result()
    assert len(list(Path("/proc/self/fd").iterdir())) == files


SCRIPT = """
import sys, time
from dapo_lightning.grading.pool import GradingPool
pool = GradingPool("hostile_graders.build", {}, 2, 60.0, 64, ["everything"])
pool.start()
"""
HANG = """
pending = pool.submit([("hang",), %s, "never"])
time.sleep(0.3)
print("ready", flush=True)
"""
CHAT = """
print([outcome.failure for outcome in pool.submit([("chat", 100)], [0.05]).result()])
"""


@pytest.fixture
def run_script(graders):
    """Runs a script in the graders' folder, which its child can import from because it is the current one."""
    started = []

    def run(text):
        process = subprocess.Popen(
            [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, cwd=graders,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def test_no_child_outlives_a_killed_parent(run_script):
    process = run_script(SCRIPT + HANG % '("loop",)' + "time.sleep(60)")
    assert process.stdout.readline() == "ready\n"
    pids = children(process.pid)
    assert len(pids) == 3
    process.kill()
    assert wait_until(lambda: not any(alive(pid) for pid in pids), 2.0)


def test_the_interpreter_ends_at_once_and_takes_along_what_it_started(run_script, graders):
    process = run_script(SCRIPT + HANG % '("sleeper", "pids", "loop")' + "sys.stdin.readline()")
    assert process.stdout.readline() == "ready\n"
    pids = children(process.pid) | {int(pid) for pid in (graders / "pids").read_text().split()}
    assert len(pids) == 4
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.wait(5.0) == 0, process.stderr.read()
    assert wait_until(lambda: not any(alive(pid) for pid in pids), 1.0)


def test_a_grader_reads_nothing_and_its_prints_go_to_stderr(run_script):
    process = run_script(SCRIPT + CHAT)
    assert process.stdout.read() == "[None]\n"
    assert set(process.stderr.read()) == {"o", "e"}


def test_a_grader_may_print_megabytes(pool):
    assert pool.submit([("chat", 500_000), "good"]).result() == [Outcome("", None), Outcome("hello good", None)]


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("no_such_module.build", "No module named 'no_such_module'.*Give the dotted path"),
        ("hostile_graders.no_such_name", "no attribute 'no_such_name'.*Give the dotted path"),
        ("build", "cannot be imported"),
        ("hostile_graders.not_callable", "raised TypeError"),
        ("hostile_graders.build_nothing", "returned a NoneType, not a function"),
        ("hostile_graders.build_badly", "raised OSError: no data for {'level': 2}"),
        ("hostile_graders.build_and_exit", "exit code 9"),
    ],
)
def test_a_grader_that_cannot_be_built_is_named(factory, says):
    others = children()
    options = {"level": 2} if factory.endswith("badly") else {}
    for use in (GradingPool.start, lambda pool: pool.submit(["x"])):
        with pytest.raises(GradingError, match=f"grader {factory}: .*{says}"):
            use(GradingPool(factory, options, 2, 1.0, 64))
    assert children() == others


def test_a_child_that_cannot_be_replaced_fails_the_results_not_the_items(tmp_path):
    flag = tmp_path / "flag"
    with make_pool(name="build_twice", flag=str(flag)) as pool:
        assert pool.submit(["good"]).result() == [Outcome("good", None)]
        time.sleep(0.3)
        flag.touch()
        assert pool.submit([1, "exit", 2]).result()[2] == Outcome(2, None)  # the spare one
        for _ in range(2):
            with pytest.raises(GradingError, match="FileExistsError"):
                pool.submit([1, "exit", 2]).result()
        flag.unlink()
        assert pool.submit([3]).result() == [Outcome(3, None)]


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_workers", 0), ("num_workers", 1.5), ("seconds", 0), ("seconds", math.nan), ("seconds", math.inf),
     ("megabytes", 0), ("megabytes", "64")],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"reward\.{name}={value}: "):
        GradingPool("a.b", {}, **{"num_workers": 1, "seconds": 1.0, "megabytes": 1} | {name: value})


def test_a_killed_child_costs_its_time_limit_and_little_more_for_another_is_ready():
    with make_pool(seconds=0.4, name="build_slowly") as pool:
        pool.submit(["warm"]).result()
        time.sleep(0.4)
        begun = time.perf_counter()
        outcomes = pool.submit([("hang",)]).result()
        cost = time.perf_counter() - begun - 0.4
        assert pool.submit(["x"]).result() == [Outcome("hello x", None)]
    assert [outcome.failure for outcome in outcomes] == ["timeout"]
    print(f"a kill costs {cost:.3f} s beyond the limit")
    assert 0 < cost < 0.2


def test_hanging_items_do_not_hold_up_the_others_or_one_another():
    with make_pool(num_workers=1, seconds=3.0) as pool:
        pool.submit(["warm"]).result()
        begun = time.perf_counter()
        outcomes = pool.submit([*range(20), ("hang",), *range(30), ("sleep", 1.0), *range(10), ("hang",), "x"]).result()
        seconds = time.perf_counter() - begun
    assert [n for n, outcome in enumerate(outcomes) if outcome.failure == "timeout"] == [20, 62]
    assert outcomes[51] == Outcome(1.0, None) and outcomes[-1] == Outcome("hello x", None)
    print(f"two items that hang for 3 s each take {seconds:.1f} s")
    assert seconds < 5.5


def test_items_that_take_no_time_pass_quickly():
    with make_pool(seconds=5.0) as pool:
        pool.submit(["warm"]).result()
        begun = time.perf_counter()
        outcomes = pool.submit(range(20_000)).result()
        rate = len(outcomes) / (time.perf_counter() - begun)
    print(f"{rate:.0f} items/s")
    assert rate > 8_000


def test_a_child_imports_little_and_has_one_order_of_sets(pool):
    outcomes = pool.submit([("modules",), ("hash",), ("exit",), ("hash",)]).result()
    assert not {"torch", "transformers", "numpy", "lightning"} & set(outcomes[0].value)
    assert [name for name in outcomes[0].value if name.startswith("dapo_lightning")] == [
        "dapo_lightning", "dapo_lightning.grading", "dapo_lightning.utils", "dapo_lightning.utils.limits"
    ]  # fmt: skip
    assert outcomes[1] == outcomes[3]


def test_the_parent_s_side_imports_no_torch():
    code = "import sys, dapo_lightning.grading.pool; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=Path(__file__).parents[3]) == "set()\n"


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def children(parent=None):
    """Living children of this process, or another, that grade."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            owner = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if owner == (parent or os.getpid()) and b"dapo_lightning.grading.child" in command:
            found.add(int(folder.name))
    return found


def wait_until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()
