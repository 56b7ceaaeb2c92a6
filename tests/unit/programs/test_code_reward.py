"""reward=code: the forms of tests, scores, and what is refused. The programs here are harmless."""

import base64
from contextlib import closing

import pytest
from fusion import fusion_server

from dapo_lightning.data.files import Files
from dapo_lightning.grading import sandbox
from dapo_lightning.programs.extract import fenced_program
from dapo_lightning.programs.outputs import same_numbers, same_text, same_tokens
from dapo_lightning.programs.tests import ProgramTests
from dapo_lightning.reward.code import Code
from dapo_lightning.types import Prompt

needs_isolation = pytest.mark.skipif(sandbox.why_not() is not None, reason=str(sandbox.why_not()))
ADDS = "def f(x):\n    return x + 1"
ASSERTS = {"tests": ["assert f(1) == 2", "assert f(5) == 6", "assert f(0) == 1", "assert f(-1) == 0"]}
CHECK = {
    "tests": "def check(candidate):\n    for x in range(9):\n        assert candidate(x) == x + 1",
    "entry_point": "f",
}
SCRIPT = {"inputs": ["1 2\n", "5 6"], "outputs": ["3\n", "11"]}
SUM = "print(sum(map(int, input().split())))"


@pytest.fixture(scope="module")
def code():
    with closing(Code(2, 3.0, 256, fenced=False)) as reward:
        reward.start()
        yield reward


def graded(reward, columns, *programs):
    return reward([Prompt("?", "", "test:0", columns)] * len(programs), programs)


@needs_isolation
@pytest.mark.parametrize(
    ("columns", "right", "wrong"),
    [
        (ASSERTS, ADDS, "def f(x):\n    return x"),
        (CHECK, ADDS, "def f(x):\n    return abs(x) + (x < 8)"),
        (SCRIPT, SUM, "print(3)"),
        (SCRIPT, "import sys\ndef main():\n    a, b = input().split()\n    sys.stdout.write(str(int(a) + int(b)))\n"
                 "if __name__ == '__main__':\n    main()\n    sys.exit()", "input()\nprint(11)"),
        ({"tests": "x = [3, 1]\nf(x)\nassert x == [1, 3]"}, "def f(x):\n    x.sort()", "def f(x):\n    sorted(x)"),
        ({"tests": "s = Stack()\ns.push(1)\ns.push((2, {3}))\nassert s.pop() == (2, {3}) and s.size == 1"},
         "class Stack:\n    def __init__(self): self.x = []\n    def push(self, y): self.x.append(y)\n"
         "    def pop(self): return self.x.pop()\n    size = property(lambda self: len(self.x))",
         "class Stack:\n    size = 1\n    def push(self, y): pass\n    def pop(self): return self"),
        ({"tests": "assert list(f(3)) == [0, 1, 2]"}, "def f(n):\n    yield from range(n)", "def f(n):\n    yield n"),
        ({"tests": "try:\n    f(0)\nexcept ZeroDivisionError:\n    x = 1\nassert x"}, "def f(x):\n    1 / x",
         "def f(x):\n    raise KeyError"),
        ({"preamble": "import math\ndef half(x): return x / 2", "tests": "assert math.isclose(half(f(3)), 2)"}, ADDS,
         "def half(x): return 2\ndef f(x): return 0"),
        ({"tests": "assert f(1e300 * 1e10) == float('inf') and f(b'x') == b'x' and f(1j) == 1j and f({(1,): None})"},
         "def f(x):\n    return x", "def f(x):\n    return 0"),
        ({"tests": "assert f(10) == 3628800"}, "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n"
         "def f(n):\n    import numpy\n    return numpy.prod(range(1, A(n).x + 1))", "def f(n): return True"),
    ],
    ids=str,
)  # fmt: skip
def test_right_programs_pass_and_wrong_ones_fail(code, columns, right, wrong):
    passed, failed = graded(code, columns, right, wrong)
    assert (passed.kind, passed.correct, passed.score, passed.answer) == ("passed", True, 1.0, right)
    assert (failed.kind in ("wrong", "exception"), failed.correct, failed.score) == (True, False, -1.0)
    assert failed.failure is None and failed.detail


@needs_isolation
def test_a_program_sees_neither_the_tests_nor_the_outputs(code):
    """It reports every text in its memory, its arguments and its frames that contains a word of the tests."""
    look = (
        "import gc\nword = ''.join(['sec', 'ret'])\n"
        "kinds = str, dict, list, tuple\n"
        "found = [o for o in gc.get_objects() if isinstance(o, kinds) and o is not globals() and word in repr(o)]\n"
    )
    calls = {"tests": "assert f() == 0, 'secret'"}
    script = {"inputs": [""], "outputs": ["secret 0"]}
    (by_call,) = graded(code, calls, look + "def f(): return len(found)")
    (by_script,) = graded(code, script, look + "print(word, len(found))")
    assert (by_call.kind, by_script.kind) == ("passed", "passed")


@needs_isolation
def test_grades_are_the_same_every_time_even_of_programs_that_use_chance(code):
    chance = "import random\ndef f(x):\n    return x + random.randint(0, 1) + len({str(random.random()), 'a'}) - 2"
    kinds = {grade.detail for grade in graded(code, ASSERTS, *[chance] * 8)}
    assert len(kinds) == 1


@needs_isolation
@pytest.mark.parametrize(
    ("columns", "program", "score"),
    [
        (ASSERTS, "def f(x):\n    return {1: 2, 5: 6}.get(x)", 0.0),
        (ASSERTS, "def f(x):\n    if x == 5: raise ValueError\n    return x + 1", 0.5),
        (ASSERTS, "def f(x):\n    return 1 / 0", -1.0),
        (ASSERTS, "import os\ndef f(x):\n    if x == 0: os._exit(0)\n    return x + 1", 0.0),
        (CHECK, "def f(x):\n    return x + (x < 6)", 1 / 3),
        (SCRIPT, "print(3)", 0.0),
        (ASSERTS, "no code", -1.0),
    ],
)
def test_partial_scores_grow_with_the_share_of_tests_that_pass(columns, program, score):
    with closing(Code(1, 3.0, 256, fenced=False, partial=True)) as reward:
        right, wrong = graded(reward, columns, SUM if "inputs" in columns else ADDS, program)
    assert (right.score, wrong.score, wrong.correct) == (1.0, pytest.approx(score), False)


@needs_isolation
def test_the_pattern_finds_the_program():
    with closing(Code(1, 3.0, 256, pattern=r"(?s)<code>(.*?)</code>")) as reward:
        grades = graded(reward, ASSERTS, f"<code>x</code> or <code>{ADDS}</code>", ADDS)
    assert [grade.kind for grade in grades] == ["passed", "no_code"]


def test_without_isolation_programs_run_if_this_is_chosen_by_name(monkeypatch, caplog):
    with closing(Code(1, 3.0, 256, fenced=False, sandbox="none")) as reward:
        reward.start()
        kinds = [
            grade.kind for grade in graded(reward, ASSERTS, ADDS, "import os\nos._exit(0)", "import os\nos.fork()")
        ]
    assert kinds == ["passed", "exception", "forbidden"]
    assert "run with access to your files" in caplog.text
    monkeypatch.setattr(sandbox, "why_not", lambda: "no namespaces")
    with pytest.raises(ValueError, match=r"reward.sandbox=bubblewrap: no namespaces.*choose reward.sandbox=none"):
        Code(1, 3.0, 256).start()


def test_a_remote_sandbox_gives_the_same_verdicts_and_is_sent_no_expected_outputs():
    script = {"inputs": ["abc"], "outputs": ["cba"]}
    with fusion_server() as (address, requests), closing(Code(1, 3.0, 256, fenced=False, sandbox=address)) as reward:
        kinds = [grade.kind for grade in graded(reward, CHECK, ADDS, "def f(x): return 0", "import os\nos._exit(0)")]
        kinds += [grade.kind for grade in graded(reward, script, "print(input()[::-1])", "print(4)")]
    assert kinds == ["passed", "wrong", "exception", "passed", "wrong"]
    sent = [{name: base64.b64decode(text) for name, text in request["files"].items()} for request in requests]
    assert all(b"candidate(x)" in files["tests.json"] for files in sent[:3])
    assert [files["tests.json"] for files in sent[3:]] == [b"null"] * 2
    assert all(b"cba" not in files["job.json"] for files in sent[3:])
    with closing(Code(1, 3.0, 256, fenced=False, sandbox="http://127.0.0.1:9")) as unreachable:
        (grade,) = graded(unreachable, CHECK, ADDS)
    assert grade.failure == "error" and "no verdict" in grade.detail


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("So:\n```python\nx = 1\n```\nDone.", "x = 1"),
        ("```\na\n```\n```\nb\n```", "b"),
        ("```python\na\n```\nIt prints\n```\nb\n```", "a"),
        ("~~~py\na\n```\n~~~", "a\n```"),
        ("```python\ncut off", "cut off"),
        ("```python\na\n```</think>no code", None),
        ("<think>```\na\n```</think>\n````python\nb\n```\n````", "b\n```"),
        ("x = 1", None),
        ("", None),
    ],
)
def test_the_program_is_the_last_fenced_block(text, program):
    assert fenced_program(text) == program


def test_outputs_are_compared_by_line_by_word_or_as_numbers():
    assert same_text("1 2 \n3\n\n", "1 2\n3") and not same_text("1  2", "1 2")
    assert same_tokens("1  2\n3", "1 2 3") and not same_tokens("1.0", "1")
    assert same_numbers("1.0 x 2e3", "1 x 2000.0000001") and not same_numbers("1.01", "1")
    assert not same_numbers("1 2", "1") and not same_numbers("nan", "1") and not same_numbers("x", "y")


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({}, "has 0 inputs, 0 outputs and no tests"),
        ({"tests": "assert f()", "inputs": ["x"], "outputs": ["x"]}, "either `tests`"),
        ({"inputs": ["x"], "outputs": []}, "has 1 inputs, 0 outputs"),
        ({"inputs": [1], "outputs": [1]}, "`inputs` has to be a text or a list of texts"),
        ({"tests": "assert f("}, "its tests are not Python"),
        ({"tests": "f()"}, "contain no assert"),
        ({"tests": "assert f()", "entry_point": "f"}, r"have to define check\(candidate\)"),
    ],
)
def test_rows_without_usable_tests_are_refused_by_name(columns, says):
    with pytest.raises(ValueError, match=rf"^rows.jsonl:3: .*{says}.*reward\.columns"):
        Code(1, 3.0, 256).usable([Prompt("?", "", "rows.jsonl:3", columns)])


def test_columns_may_have_other_names():
    assert ProgramTests.of({"test_list": ["assert f()"]}, {"tests": "test_list"}).tests == "assert f()"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sandbox": "docker"}, "reward.sandbox=docker: choose bubblewrap, none, e2b"),
        ({"compare": "bytes"}, "reward.compare=bytes: choose one of exact, tokens, numbers"),
        ({"allow": ["home"]}, "programs cannot be given access to anything"),
        ({"columns": {"test": "x"}}, "reward.columns: test is not known"),
        ({"correct": -1.0}, "must exceed"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        Code(1, 3.0, 256, **options)


def test_rows_of_files_need_no_answer(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Write f.", "tests": "assert f()"}\n')
    (prompt,) = Files(None, str(tmp_path / "rows.jsonl"), answer_column=None).validation_prompts()
    assert (prompt.answer, prompt.columns["tests"]) == ("", "assert f()")
