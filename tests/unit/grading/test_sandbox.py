"""What graders can access: a reward function tries it from inside a grader."""

import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import spies
import yaml
from runs import ROOT, wait_for

from dapo_lightning.grading import sandbox
from dapo_lightning.grading.permissions import Permissions
from dapo_lightning.reward import pooled
from dapo_lightning.reward.function import Function
from dapo_lightning.run.targets import check_targets
from dapo_lightning.types import Prompt

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces and /proc")
needs_isolation = pytest.mark.skipif(sandbox.why_not() is not None, reason=str(sandbox.why_not()))

PROBES = ("REAL_HOME", "PROBE_HOST", "PROBE_PORT")
OPTION = yaml.safe_load((ROOT / "conf/reward/math.yaml").read_text())
ALWAYS = {"private /tmp", "code", "sub-processes", "shared memory"}


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A working folder with code and a run, a home with a secret, secrets in the environment, and a server."""
    home, work = tmp_path / "home", tmp_path / "home" / "work"
    (work / "run").mkdir(parents=True)
    (home / "secret.txt").write_text("hunter2")
    (work / "my_module.py").write_text("def f(): pass")
    (work / "run" / "config.yaml").write_text("seed: 0")
    monkeypatch.chdir(work)
    with socket.create_server(("127.0.0.1", 0)) as server:
        secrets = {"HF_TOKEN": "hf_secret", "AWS_SECRET_ACCESS_KEY": "x"}
        probes = dict(zip(PROBES, (str(home), "127.0.0.1", str(server.getsockname()[1])), strict=True))
        for name, value in {"HOME": str(home), **secrets, **probes}.items():
            monkeypatch.setenv(name, value)
        yield home
    assert (work / "my_module.py").read_text() == "def f(): pass" and not Path("/evil").exists()
    assert (work / "run" / "config.yaml").read_text() == "seed: 0"


def open_routes(*allow, but=()):
    reward = Function(1, 9.0, 500, path="spies.open_routes", allow=[*allow, *PROBES])
    routes = [route for route in spies.ROUTES if route not in but]
    with closing(reward):
        reward.start()
        grades = reward([Prompt("?", "", "test:0")] * len(routes), routes)
    assert all(grade.failure is None for grade in grades)
    return {route for route, grade in zip(routes, grades, strict=True) if grade.score}


@needs_isolation
def test_in_isolation_every_route_is_closed_except_those_that_rewards_need():
    assert open_routes() == ALWAYS


@needs_isolation
@pytest.mark.parametrize(
    ("allow", "opened"),
    [
        (["network"], {"network"}),
        (["home"], {"home", "data beside the code"}),
        (["./run"], {"data beside the code"}),
        (["HF_TOKEN"], {"token", "environment of the sandbox"}),
    ],
    ids=lambda value: str(sorted(value)),  # sets print in any order
)
def test_a_route_is_opened_by_its_name(allow, opened):
    assert open_routes(*allow) == ALWAYS | opened


@needs_isolation
def test_an_interpreter_behind_several_links_is_found(tmp_path):
    """As uv installs them."""
    (tmp_path / "3.x").symlink_to(sys.base_prefix)
    for name in ("venv/bin", "shims/bin"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "shims/bin/python").symlink_to(tmp_path / "3.x/bin" / Path(sys.executable).resolve().name)
    (tmp_path / "venv/bin/python").symlink_to(tmp_path / "shims/bin/python")
    (tmp_path / "venv/pyvenv.cfg").write_text(f"home = {tmp_path / '3.x/bin'}\n")
    text = (
        "import subprocess, sys\n"
        "from dapo_lightning.grading.permissions import Permissions\n"
        "command = Permissions().command([sys.executable, '-c', 'import json; print(json.dumps(1))'])\n"
        "print(subprocess.run(command, capture_output=True, text=True))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([tmp_path / "venv/bin/python", "-c", text], env=environment, capture_output=True, text=True)
    assert "returncode=0, stdout='1\\n'" in done.stdout, done


def test_without_isolation_the_environment_is_clean_and_this_is_told_once(monkeypatch, caplog):
    monkeypatch.setattr(sandbox, "why_not", lambda: "no namespaces")
    pooled._say_why_not.cache_clear()
    harmless = {"write beside the code", "write code", "write site-packages", "write the root", "mount"}
    assert open_routes(but=harmless) & {"token", "key", "environment of the sandbox"} == set()
    open_routes(but=harmless)
    told = [record.message for record in caplog.records if "without isolation" in record.message]
    assert told == ["completions are graded without isolation from the network and from your files: no namespaces."]


MEMORY = """
import sys
from dapo_lightning.grading import sandbox
from dapo_lightning.grading.pool import GradingPool
sandbox.why_not = lambda: "no namespaces"
caller, options = "dapo_lightning.grading.function_caller.FunctionCaller", {"path": "spies.open_routes"}
pool = GradingPool(caller, options, 1, 9.0, 500, sys.argv[1:])
print(pool.submit([{"completions": ["memory of the parent"], "prompts": ["?"]}]).result()[0].value)
pool.close()
"""


def test_without_isolation_too_a_grader_cannot_read_the_memory_of_the_run():
    """Root can, unless it lacks a capability: nothing but isolation would help."""
    as_anybody = ["setpriv", "--bounding-set=-sys_ptrace"] if os.geteuid() == 0 else []
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/helpers'}"}
    scores = []
    for allow in ("LANG", "everything"):
        command = [*as_anybody, sys.executable, "-c", MEMORY, allow]
        scores.append(subprocess.run(command, env=environment, capture_output=True, text=True).stdout)
    assert scores[0] == "[0.0]\n" and scores[1] in ("[0.0]\n", "[1.0]\n")  # some kernels forbid it to everybody


HANG = """
import time
from dapo_lightning.grading.pool import GradingPool
caller, options = "dapo_lightning.grading.function_caller.FunctionCaller", {"path": "rewards.hides_and_hangs"}
pool = GradingPool(caller, options, 1, 60.0, 500)
pool.submit([{"completions": ["x"], "prompts": ["?"]}])
print("ready", flush=True)
time.sleep(60)
"""


@needs_isolation
def test_nothing_outlives_a_killed_run_in_isolation_whatever_it_started():
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/helpers'}"}
    with subprocess.Popen([sys.executable, "-c", HANG], env=environment, stdout=subprocess.PIPE) as run:
        run.stdout.readline()
        wait_for(lambda: any("sleep" in name for name in descendants(run.pid).values()), seconds=9)
        started = descendants(run.pid)
        run.kill()
        wait_for(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in started), seconds=9)


def descendants(pid):
    """Process ids and command lines."""
    found, todo = {}, [pid]
    while todo:
        for tasks in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            new = [int(child) for child in tasks.read_text().split()]
            found |= {child: Path(f"/proc/{child}/cmdline").read_text() for child in new}
            todo += new
    return found


def test_one_word_needs_no_list_and_null_allows_nothing():
    assert Permissions.of("network") == Permissions.of(["network"]) == Permissions(network=True)
    assert Permissions.of(None) == Permissions()
    for allow in ("network", None, ["network"]):
        check_targets({"reward": OPTION | {"allow": allow}})


def test_an_import_that_needs_permission_says_so(monkeypatch):
    Path("judge.py").write_text("import os\nKEY = os.environ['JUDGE_KEY']\ndef ask(completions): return [0.0]\n")
    monkeypatch.setenv("JUDGE_KEY", "x")
    needs_permission = pytest.raises(ValueError, match=r"'JUDGE_KEY'.* only there if reward\.allow names them")
    with closing(Function(1, 9.0, 500, path="judge.ask")) as judge, needs_permission:
        judge.start()
    with closing(Function(1, 9.0, 500, path="judge.ask", allow="JUDGE_KEY")) as judge:
        judge.start()


def test_words_that_are_not_known_and_paths_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match=r"reward\.allow: internet is not known\. Choose among everything, network"):
        Permissions.of(["internet"])
    with pytest.raises(ValueError, match=r"reward\.allow: .*/nowhere does not exist"):
        Permissions.of(["./nowhere"])


def test_what_is_said_where_isolation_does_not_work(monkeypatch, tmp_path):
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho 'bwrap: No permissions to create a new namespace' >&2; exit 1")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setattr(sandbox, "_program", lambda: tmp_path / "bwrap")
    assert sandbox.why_not.__wrapped__() == (
        "bubblewrap does not work here (bwrap: No permissions to create a new namespace)"
    )
    monkeypatch.setattr(sandbox, "_program", lambda: None)
    assert sandbox.why_not.__wrapped__().startswith("bubblewrap is not installed (`apt install")
