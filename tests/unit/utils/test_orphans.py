"""A rank ends with the first one, however that ends."""

import os
import subprocess
import sys
import time
from pathlib import Path

from runs import ROOT

CHILD = """
import time
from dapo_lightning.utils.orphans import end_with_launcher
end_with_launcher()
print("up", flush=True)
time.sleep(100)
"""
FIRST = f"""
import os, subprocess, sys, time
from dapo_lightning.utils.orphans import end_with_launcher
end_with_launcher()
environment = os.environ | {{"LOCAL_RANK": "1"}}
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], env=environment, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(100)
"""


def test_a_rank_dies_with_the_first_one():
    first = subprocess.Popen([sys.executable, "-c", FIRST], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    second = Path(f"/proc/{first.stdout.readline().strip()}")
    assert second.exists()
    first.kill()
    first.wait()
    deadline = time.time() + 10
    while second.exists() and "Z" not in (second / "stat").read_text().split()[2]:
        assert time.time() < deadline
        time.sleep(0.05)


def test_a_rank_whose_first_one_is_gone_ends_at_once():
    environment = os.environ | {"LOCAL_RANK": "1", "DAPO_LIGHTNING_LAUNCHER": "1"}
    ended = subprocess.run([sys.executable, "-c", CHILD], cwd=ROOT, env=environment, timeout=60, check=False)
    assert ended.returncode == 1
