"""reward.sandbox=e2b, with E2B's own SDK and a stand-in for its service."""

import json
from contextlib import closing

import pytest
from e2b_fake import e2b_server

from dapo_lightning.reward.code import Code
from dapo_lightning.types import Prompt

ADDS = "def f(x):\n    return x + 1"
CHECK = {"tests": "def check(candidate):\n    assert candidate(1) == 2, 'secret'", "entry_point": "f"}
SCRIPT = {"inputs": ["abc"], "outputs": ["cba"]}


def kinds(reward, columns, *programs):
    grades = reward([Prompt("?", "", "test:0", columns)] * len(programs), programs)
    return [grade.failure or grade.kind for grade in grades]


def test_machines_give_the_same_verdicts_and_are_sent_no_expected_outputs(monkeypatch):
    with e2b_server(monkeypatch) as requests, closing(Code(1, 2.0, 256, fenced=False, sandbox="e2b:mine")) as reward:
        reward.start()
        found = kinds(reward, CHECK, ADDS, "def f(x): return 0", "import os\nos._exit(0)", "import os\nos.fork()", "f(")
        assert found == ["passed", "wrong", "exception", "forbidden", "syntax"]
        assert kinds(reward, SCRIPT, "print(input()[::-1])", "print(4)") == ["passed", "wrong"]
    (created,) = [body for _, path, _, body in requests if path == "/v2/sandboxes"]
    assert json.loads(created) | {"templateID": "mine", "allow_internet_access": False} == json.loads(created)
    sent = [body for _, path, _, body in requests[2:] if path == "/files"]
    assert ["secret" in str(body) for body in sent] == [True] * 5 + [False] * 2
    assert not any("cba" in str(body) for body in sent)


def test_a_program_that_ends_its_tester_does_no_harm_to_the_next_one(monkeypatch):
    """The machine is replaced. Files that an earlier program has left behind are neither run nor read."""
    ends = "import os\ndef f(x): os.kill(os.getppid(), 9)"
    leaves = "open('json.py', 'w').write('x')\nopen('tests.json', 'w').write('x')\n" + ADDS
    with e2b_server(monkeypatch) as requests, closing(Code(1, 2.0, 256, fenced=False, sandbox="e2b")) as reward:
        assert kinds(reward, CHECK, leaves, ADDS, ends, ADDS) == ["passed", "passed", "error", "passed"]
    assert [key for method, path, key, _ in requests if path == "/v2/sandboxes"] == ["secret"] * 2
    assert [path for method, path, *_ in requests if method == "DELETE"] == ["/sandboxes/one"]


def test_without_a_key_the_run_is_refused(monkeypatch):
    monkeypatch.delenv("E2B_API_KEY", raising=False)
    with pytest.raises(ValueError, match=r"reward\.sandbox=e2b: set the environment variable E2B_API_KEY"):
        Code(1, 2.0, 256, sandbox="e2b").start()
