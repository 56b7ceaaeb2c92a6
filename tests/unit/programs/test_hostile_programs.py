"""Every hostile program gets one grade in bounded time, touches nothing outside, and its neighbours are unharmed."""

import os
import socket
import sysconfig
import time
from contextlib import closing
from pathlib import Path

import pytest
from hostile import RIGHT, SAFE_PROGRAMS, SAFE_TEST, TESTS, WRONG

from dapo_lightning.grading import sandbox
from dapo_lightning.reward.code import Code
from dapo_lightning.types import Prompt

pytestmark = pytest.mark.skipif(sandbox.why_not() is not None, reason=str(sandbox.why_not()))

SECONDS = 2.0  # on a busy machine, a program may reach it before another limit


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """All programs, each between right neighbours, and what they have left behind."""
    home = tmp_path_factory.mktemp("home")
    work = home / "work"
    (work / "run").mkdir(parents=True)
    for path, text in ((home / "secret.txt", "hunter2"), (work / "my_module.py", ""), (work / "run/config.yaml", "")):
        path.write_text(text)
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        patch.chdir(work)
        patch.setenv("HOME", str(home))
        patch.setenv("HF_TOKEN", "hf_secret")
        programs = [(name, text, TESTS) for name, (text, _) in WRONG.items()]
        programs += [(name, text, SAFE_TEST) for name, text in SAFE_PROGRAMS.items()]
        places = {"HOME": str(home), "WORK": str(work), "PORT": str(server.getsockname()[1])}
        completions, prompts = [], []
        for name, text, tests in programs:
            for place, value in places.items():
                text = text.replace(place, value)
            for each, its in ((text, tests), ("open('/tmp/neighbour', 'w').write('x')\n" + RIGHT, TESTS)):
                completions.append(each)
                prompts.append(Prompt("?", "", f"test:{name}", {"tests": its}))
        before, earlier = canaries(), graders()
        with closing(Code(2, SECONDS, 256, fenced=False)) as reward:
            started = time.monotonic()
            grades = reward(prompts, completions)
            seconds = time.monotonic() - started
            with pytest.raises(BlockingIOError):  # nobody has called
                server.accept()
        after, left = canaries(), graders() - earlier
    names = [name for name, _, _ in programs]
    assert (home / "secret.txt").read_text() == "hunter2" and not list(work.rglob("*evil*"))
    return dict(zip(names, grades[::2], strict=True)), grades[1::2], seconds, before, after, left


def canaries():
    """What programs might change: folders that they know, and the processes of this machine that belong to nobody."""
    folders = [Path("/"), Path("/tmp"), Path("/dev"), Path("/dev/shm"), Path(sysconfig.get_paths()["purelib"]),
               Path(os.__file__).parent, Path(sandbox.__file__).parents[1] / "programs"]  # fmt: skip
    found = {str(path) for folder in folders for path in folder.iterdir() if "evil" in path.name}
    found |= {str(path) for path in Path("/tmp").iterdir() if path.name == "neighbour" or path.name.isdigit()}
    return found


def graders():
    """The graders that this process has started, those of earlier tests included."""
    started = {int(pid) for tasks in Path("/proc/self/task").glob("*/children") for pid in tasks.read_text().split()}
    names = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in started}
    return {pid for pid, name in names.items() if b"bwrap" in name or b"grading.child" in name}


def test_every_program_gets_the_verdict_that_it_deserves(graded):
    grades, *_ = graded
    wrong = {name: (grades[name].kind, grades[name].detail) for name, (_, kind) in WRONG.items()
             if grades[name].correct or grades[name].failure
             or (kind and grades[name].kind not in (kind, "timeout"))}  # fmt: skip
    done = {name: (grades[name].kind, grades[name].detail) for name in SAFE_PROGRAMS if not grades[name].correct}
    assert (wrong, done) == ({}, {})
    assert len(WRONG) + len(SAFE_PROGRAMS) >= 60


def test_neighbours_are_unharmed(graded):
    assert [grade.kind for grade in graded[1]] == ["passed"] * len(graded[1])


def test_nothing_outside_is_touched_and_the_time_is_bounded(graded):
    grades, neighbours, seconds, before, after, _ = graded
    assert before == after == set()
    slow = sum(grade.kind == "timeout" for grade in grades.values())
    assert seconds < 4 * SECONDS * slow + 0.5 * (len(grades) + len(neighbours))


def test_no_process_is_left(graded):
    assert graded[-1] == set()
