"""Grading of mathematical answers: where it errs on a table written by hand, and that hostile text does no harm."""

import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from dapo_lightning.grading import math_grader as grading
from dapo_lightning.grading.final_answer import final_answer
from dapo_lightning.grading.math_grader import MathGrader
from dapo_lightning.reward.math import Math
from dapo_lightning.types import Prompt

ROWS = [json.loads(line) for line in (Path(__file__).parents[2] / "data/math_answers.jsonl").read_text().splitlines()]

# Correct answers that are graded as wrong. This list and the next are exact: whoever fixes an answer removes it here.
FALSE_NEGATIVES = {
    "unit": 1,  # 5 squared
    "matrix": 1,  # a determinant not worked out
    "benchmark style": 2,  # 3 hours 24 minutes; \n spelt out
}
# Wrong answers that are taken for right: what differs beyond 200 digits.
FALSE_POSITIVES = {(r"\pi+10^{-300}", r"Hence $\boxed{\pi}$.")}


PARTS = tuple(
    f".{name}"
    for name in "arithmetic assignments brackets comparison final_answer latex macros math_grader points precision"
    " quantities regions shapes spelling sums tokens tree values work".split()
)  # modules of the grader


@pytest.fixture(scope="module")
def grade():
    return MathGrader()


def verdicts(grade):
    return [grade((row["answer"], row["completion"])) for row in ROWS]


def test_the_table(grade):
    assert len(ROWS) >= 320
    wrong = [(row, verdict) for row, verdict in zip(ROWS, verdicts(grade), strict=True) if verdict[0] != row["correct"]]
    rows = Counter(row["kind"] for row in ROWS)
    positives = Counter(row["kind"] for row, verdict in wrong if verdict[0])
    negatives = Counter(row["kind"] for row, verdict in wrong if not verdict[0])
    print(f"\n{'kind':20} rows  false positives  false negatives")
    for kind, count in rows.items():
        print(f"{kind:20} {count:4}  {positives[kind]:15}  {negatives[kind]:15}")
    print(f"{'all':20} {len(ROWS):4}  {positives.total():15}  {negatives.total():15}")
    for row, verdict in wrong:
        print(row, verdict)
    assert {(row["answer"], row["completion"]) for row, verdict in wrong if verdict[0]} == FALSE_POSITIVES
    assert negatives == FALSE_NEGATIVES


def test_every_reference_equals_itself(grade):
    answers = {row["answer"] for row in ROWS}
    assert [answer for answer in answers if not grade((answer, rf"So $\boxed{{{answer}}}$."))[0]] == []


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1}, no: \boxed{2}. Answer: 3", "3"),
        ("Answer: 3. No: \\boxed{2}", "2"),
        (r"<think>\boxed{1}</think> The answer is 2.", "2"),
        (r"<think>The answer is 1.</think> I give up.", None),
        (r"\boxed{1}. I put it in \boxed{}.", "1"),
        (r"\boxed{1} The answer is correct.", "1"),
        ("Answer: 34\n(The answer is an integer, as required.)", "34"),
        ("Answer: $5! = 120$", "5! = 120"),
        ("答案：34。", "34"),
        ("<answer> 12 </answer>", "12"),
        (r"\boxed{1} \boxed{2", "1"),
        (r"\boxed{1 \boxed{2}", "2"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{}", ""),
        (r"\fbox{ $x$. }", "x"),
        (r"\boxed 5.", "5"),
        ("Answer: 1\n#### 2", "2"),
        ("#### 2\n**Answer:** 1", "1"),
        ("Answer: 3\nAnswer:", "3"),
        ("Final Answer\n\n$$\n\\text{12}\n$$", "12"),
        ("the answer is 3.5, since", "3.5"),
        ("so 5", None),
        ("", None),
    ],
)
def test_the_final_answer(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize("bound", ["7", "-3", "25", "123456", "10^{9}", r"\sqrt{2}", r"\frac{1}{1000}"])
def test_relations_are_compared_at_their_bounds_however_far(grade, bound):
    others = rf"x>{bound}", rf"x\ge{bound}+\frac1{{1000}}", rf"({bound},\infty)", rf"x\le{bound}", rf"x>{bound}-1"
    assert grade((rf"x\ge{bound}", rf"\boxed{{[{bound},\infty)}}"))[0]
    assert not any(grade((rf"x\ge{bound}", rf"\boxed{{{other}}}"))[0] for other in others)


def test_a_set_of_one_number_is_the_number(grade):
    pairs = [(r"\{1\}", "1"), ("1", r"\{1\}"), (r"\{1\}", "2"), (r"\{1,2\}", "1"), (r"n\in\mathbb{Z}", r"\mathbb{Z}")]
    assert [grade((a, rf"\boxed{{{b}}}"))[0] for a, b in pairs] == [True, True, False, False, True]


def test_boxes_side_by_side_are_a_list_if_one_is_asked_for(grade):
    text = r"\boxed{1}, \boxed{2} and $\boxed{3}$"
    assert final_answer(text, several=True) == "1, 2, 3" and final_answer(text) == "3"
    assert [grade((reference, text))[0] for reference in ("1,2,3", "3", "2", "1,2")] == [True, True, False, False]


@pytest.mark.parametrize(
    "reference",
    [r"\boxed{42}", "#### 42", "Answer: 42", "**42**", "['42']", "$42$", r"20 + 22 is \boxed{42}.", "42 (boxes)"],
)
def test_references_are_read_as_answers_are(grade, reference):
    assert [grade((reference, rf"\boxed{{{answer}}}"))[0] for answer in ("42", "42.0", "41")] == [True, True, False]


def test_unreadable_references_are_refused_before_the_run_or_left_out(caplog):
    references = ["42", r"\boxed{\frac12}", "Evelyn", "no solution", "B", "x>1", "2 apples", "", "if x then {y", "a?b"]
    prompts = [Prompt("", reference, f"data.csv:{row}") for row, reference in enumerate(references)]
    found = (
        r"3 of 10 reference answers, which reward=math cannot read .*: "
        r"data.csv:7 \(''\), data.csv:8 \('if x then {y'\), data.csv:9 \('a\?b'\)"
    )
    with (
        closing(Math(1, 60.0, 1000)) as reward,
        pytest.raises(ValueError, match=rf"{found}\. .*reward\.unreadable=skip"),
    ):
        reward.usable(prompts)
    with closing(Math(1, 60.0, 1000, unreadable="skip")) as reward:
        assert reward.usable(prompts) == prompts[:7]
        with pytest.raises(ValueError, match="1 of 1 reference answers"):  # nothing would be left
            reward.usable(prompts[7:8])
    (record,) = caplog.records
    assert re.search(f"unreadable=skip leaves out {found}", record.getMessage())


def test_a_pattern_of_ones_own():
    text = "<answer>1</answer> <answer>$2$</answer> \\boxed{3}"
    assert MathGrader(r"<answer>(.*?)</answer>")(("2", text)) == (True, "2", "string", "2")
    assert MathGrader(r"<ANSWER>(.*?)</ANSWER>")(("3", text)) == (False, None, "none", None)
    for pattern in ("(", "a", "(a)(b)"):
        with pytest.raises(ValueError, match=r"reward\.pattern"):
            MathGrader(pattern)


@pytest.mark.parametrize(
    ("reference", "completion", "verdict"),
    [
        ("12", "nothing", (False, None, "none")),
        ("12", r"\boxed{}", (False, "", "string")),
        ("", r"\boxed{}", (False, "", "string")),
        ("yes", r"\boxed{\text{Yes}}", (True, "Yes", "string")),
        ("12", r"\boxed{12.0}", (True, "12.0", "number")),
        ("x+1", r"\boxed{1+x}", (True, "1+x", "symbolic")),
        ("x+1", r"\boxed{1+}", (False, "1+", "unparsed")),
        ("1" * 501, rf"\boxed{{{'1' * 501}}}", (True, "1" * 500, "string")),
        ("1", rf"\boxed{{{'1' * 501}}}", (False, "1" * 500, "too_long")),
    ],
)
def test_stages(grade, reference, completion, verdict):
    assert grade((reference, completion))[:3] == verdict


@pytest.mark.parametrize(
    ("reference", "same", "others"),
    [
        ("1/2", ["1/2", "0.5", r"\frac{1}{2}", r"\dfrac12", "½", ".50", "x=1/2", "2^{-1}"], ["2", "-1/2"]),
        ("7", [r"\frac{1}{2}", "0.5"], ["7", r"\frac{1}{2}x"]),  # wrong answers are votes, too
        ("x+1", ["x+1", "1 + x", "(x+1)", r"\frac{2x+2}{2}", "y=x+1"], ["x-1", "z+1", "x+1.0001"]),
        ("(x+1)^{500}", ["(x+1)^{500}", "(1+x)^{500}"], ["(x+1)^{501}"]),
        (r"\frac{\sqrt{2}}{2}", [r"\frac{\sqrt{2}}{2}", r"1/\sqrt{2}", r"\sqrt{1/2}"], [r"\sqrt{2}"]),
        (r"\{1,2\}", [r"\{1,2\}", r"\{2, 1\}"], ["(1,2)", r"\{1\}"]),
        ("yes", ["yes", r"\text{Yes}", "YES."], ["no"]),
        ("B", ["B", "(B)", r"\text{B}", "b", "B. 12"], ["(A)", "C"]),
        ("5", ["5", r"5\text{ cm}", "5 m"], ["6"]),
        (r"5\text{ cm}", ["5", r"5\text{ cm}", "5 centimeters"], ["5 m"]),
        ("x+1", ["1+", " 1+"], ["1-"]),  # no mathematics
        ("2,2,3", ["2,2,3", "2, 2, 3"], ["2,3", "2,3,3"]),
        ("x=5", ["5", "x = 5"], ["y=5"]),
    ],
)
def test_one_vote_for_all_spellings(grade, reference, same, others):
    votes = [grade((reference, rf"\boxed{{{answer}}}"))[3] for answer in [*same, *others]]
    assert len(set(votes[: len(same)])) == 1, votes
    assert not set(votes[: len(same)]) & set(votes[len(same) :]), votes


def test_right_and_wrong_answers_share_no_vote(grade):
    golds = [grade((row["answer"], rf"\boxed{{{row['answer']}}}"))[3] for row in ROWS]
    pairs = [(verdict[0], verdict[3] == gold) for verdict, gold in zip(verdicts(grade), golds, strict=True)]
    assert Counter(pairs)[(False, True)] == 0
    assert Counter(pairs)[(True, False)] == 0


REFERENCES = ("7", "x^2+1", "(1,2)", "x+y=1", r"\{1,2\}", "x>1")
LATEX = [
    "9**9**9**9", "10^(10^10)", "2^{2^{2^{100}}}", "(9^9)^(9^9)", "100000!", "9!!!!", r"\binom{10^9}{5\cdot 10^8}",
    "1e999999999", "1E999999999", "(9^{9^9},1)", r"\sqrt[9^9]{2}", r"e^{e^{e^{e^{10}}}}", r"\sin(10^{6000})",
    "2^{9^9+n}", "2^{0.123456789}", "x^{9999}-1", r"\tan(\pi/2)",
    "(" * 200 + "1" + ")" * 200, r"\frac{1}{" * 24 + "2" + "}" * 24, "-" * 400 + "5", "|" * 400, "x!" + "!" * 400,
    "x^" * 200 + "x", r"\sqrt" * 90 + "2", "x=" * 150 + "1", "1<" * 200 + "2", ",;" * 200, "0/0", r"\infty-\infty",
    "x/0", r"0^{0}", r"\log_0 0", r"\\", "^", "&", "...", r"\frac{}{}", r"\input{/etc/passwd}", "\0" * 400, "\ud800",
    r"\{\begin{pmatrix}1\end{pmatrix},2\}", r"\begin{pmatrix}1\end{pmatrix}=2", r"\mathbb{R}=\mathbb{Z}", "{}" * 200,
    "$" * 400, "١٢٣" * 100, "½²₃" * 100, "é\u0301" * 200, "\U0001f600" * 200, r"\text{" * 80 + "}" * 80,
]  # fmt: skip


@pytest.mark.parametrize("latex", LATEX, ids=lambda latex: repr(latex[:24]))
def test_hostile_latex_gets_a_verdict_at_once(grade, latex):
    start = time.process_time()
    for reference in REFERENCES:
        assert grade((reference, rf"\boxed{{{latex}}}"))[0] is False
        assert grade((reference, f"Answer: {latex}"))[0] is False
    assert time.process_time() - start < len(REFERENCES) * 2 * 1.0


TEXTS = [
    "", "\0", "\0" * 10**6, "\\" * 10**6, "{" * 10**5 + "}" * 10**5, r"\boxed{" * 10**5,
    r"\boxed{" * 10**5 + "}" * 10**5,
    r"\boxed{" + "(" * 10_000 + "1" + ")" * 10_000 + "}", r"\boxed{" + r"\frac{1}{" * 10_000 + "2" + "}" * 10_001,
    r"\boxed{" + "9" * 10**6 + "}", "Answer: " + "9" * 10**6, "#" * 10**6, "#### " * 10**5, "answer: " * 10**5,
    "the answer to " * 30_000, "answer" + " " * 10**6, "*" * 10**6, "$" * 10**6, "Answer: " + "$" * 10**6, "\n" * 10**6,
    "so the sum is 12 " * 60_000, r"\boxed{" + r"\text{" * 10**5 + "}" * (10**5 + 1), "the final answer " * 50_000,
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: f"{text[:12]!r} x {len(text)}")
def test_hostile_text_of_a_megabyte_gets_a_verdict_at_once(grade, text):
    start = time.process_time()
    correct, answer, *_ = grade(("7", text))
    assert correct is False and len(answer or "") <= 500
    assert time.process_time() - start < 1.0


def test_a_million_open_boxes_take_linear_time(grade):
    start = time.process_time()
    assert grade(("7", r"\boxed{" * 10**6)) == (False, None, "none", None)  # seven megabytes
    assert time.process_time() - start < 7.0


CODE = [
    "__import__('os').system('touch X')", '__import__("os").system("touch X")', "eval(\"open('X','w')\")",
    "exec(chr(111))", "().__class__.__bases__[0].__subclasses__()", "open(chr(88),chr(119))", "lambda: 0",
    "os.system(X)", "1 if open('X','w') else 1", "Symbol('x')", "f\"{open('X','w')}\"", "x.func.__globals__",
]  # fmt: skip
PLACES = [
    "{}", r"\boxed{{{}}}", "Answer: {}", "#### {}", r"\boxed{{\text{{{}}}}}", r"\boxed{{\frac{{{}}}{{2}}}}",
    r"\boxed{{{}+1}}", r"\boxed{{x_{{{}}}}}", r"\boxed{{\operatorname{{{}}}(x)}}", r"\boxed{{(1,{})}}",
    r"\boxed{{\{{1,{}\}}}}", r"\boxed{{x={}}}", r"\boxed{{\vec{{{}}}}}", r"\boxed{{2^{{{}}}}}", r"\boxed{{f({})}}",
    r"\boxed{{\sqrt[{}]{{2}}}}", r"\boxed{{\begin{{pmatrix}}{}\end{{pmatrix}}}}", r"\boxed{{12 {}}}", "12 {}",
]  # fmt: skip

WATCHED = """
import builtins, json, random, sys
sys.path.insert(0, "TESTS")
from test_math_answers import CODE, PLACES, REFERENCES, ROWS, verdicts
from dapo_lightning.grading.math_grader import MathGrader

reached = []
for name in ("eval", "exec", "compile"):
    setattr(builtins, name, lambda *args, **options: reached.append(str(args)))
sys.addaudithook(lambda event, args: reached.append(str(args)) if event in ("os.system", "subprocess.Popen") else None)
grade = MathGrader()
order = list(range(len(ROWS)))
random.Random(SEED).shuffle(order)
rows, ROWS[:] = list(ROWS), [ROWS[n] for n in order]
everything = [verdict for _, verdict in sorted(zip(order, verdicts(grade)))]
for code in CODE if SEED == 1 else ():
    for place in PLACES:
        for reference in REFERENCES:
            assert not grade((reference, place.format(code)))[0]
        grade((place.format(code), "\\\\boxed{x+1}"))  # nor in the reference
print(json.dumps([everything, reached]))
"""


def watched(folder, seed):
    """(verdicts on the table, what reached eval) of a process that grades it in another order, and then code."""
    script = WATCHED.replace("TESTS", str(Path(__file__).parent)).replace("SEED", str(seed))
    root = str(Path(grading.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env={"PYTHONPATH": root, "PYTHONHASHSEED": str(seed)}, timeout=240,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == []  # no X
    return json.loads(done.stdout)


def test_no_text_is_evaluated_and_grading_is_a_pure_function(grade, tmp_path):
    """The same pair has the same verdict in any order, the first time and later, and in any process."""
    first = [list(verdict) for verdict in verdicts(grade)]
    for seed in (1, 2):
        assert watched(tmp_path, seed) == [first, []]
    order = list(range(len(ROWS))) * 2
    random.Random(0).shuffle(order)
    for n in order:
        assert list(grade((ROWS[n]["answer"], ROWS[n]["completion"]))) == first[n]


def run(script, timeout):
    root = str(Path(grading.__file__).parents[2])
    return subprocess.run([sys.executable, "-c", script], cwd=root, timeout=timeout, capture_output=True, text=True)


EXPENSIVE = [
    ("x+1", "(x+y+z+w)^{500}"), ("y=1", "x^{17}-x-1=0"), ("x>1", "x^{17}-x-1>0"), ("2", r"\sum_{n=1}^{10^9}n"),
    ("x>0", r"\sin(\sin(999x))>0"), ("x+1", r"((x+y)^{300}+(y+z)^{300})^{30}"), ("n", r"n^{n^{n^{n}}}"),
    ("2", r"\sum_{n=1}^{500}\sum_{k=1}^{500}\sum_{j=1}^{500}njk"),
    ("2", r"\sum_{n=1}^{500}(1+2\sum_{k=1}^{500}(1+2njk))"), ("x>1", r"\sum_{n=1}^{400}\sin(nx)>1"),
    ("x+y=1", r"\sum_{n=1}^{400}x^n+y=1"), ("2^{100000}", "2^{100000}+1"), ("x^2", r"\sum_{k=1}^{500}10000!"),
    ("x<3", r"x<\sum_{k=1}^{500}\binom{10000+k}{5000}+\prod_{k=1}^{500}(k+x)!"),
    ("2", "+".join([r"\sum_{k=1}^{500}\sin(k^2)\ln k"] * 12)),
    ("x^2", r"\sum_{n=0}^\infty\frac{\binom{20000}{n}}{9999!}"),
    ("2", "2^{190000}+2^{190001}+2^{190002}+...+2^{199999}"),
]  # fmt: skip


@pytest.mark.parametrize(("reference", "answer"), EXPENSIVE)
def test_no_answer_takes_long(grade, reference, answer):
    """What a computer algebra system would expand or solve for minutes is compared at a few points."""
    start = time.process_time()
    assert grade((reference, rf"\boxed{{{answer}}}"))[0] is False
    assert time.process_time() - start < 2.5  # half a second for the verdict and the vote each, on a slow machine


TOKENS = r"""1 2 10 x y n k e i \pi \infty + - * / ^ _ ! ( ) [ ] \{ \} { } , ; = < \le \ne \approx \frac \sqrt
\binom \sum_{k=1}^{n} \sum_{k=0}^\infty \prod_{k=1}^{5} \sin \ln \log_2 \gcd(4,6) \dots ... | \% ° 10^{10^{10}} 10000!
\text{cm} \text{(!)} \begin{pmatrix} \end{pmatrix} & \\ \cup \in \mathbb{R} \pm : 0.333... (mod~7) 5% (A)
twelve \mid""".split()


def test_no_text_raises_an_exception(grade):
    draw = random.Random(0)
    for _ in range(1000):
        reference, answer = ("".join(draw.choices(TOKENS, k=draw.randint(1, 9))) for _ in range(2))
        grade((reference, rf"\boxed{{{answer}}}"))
    for reference, answer in (("10^{10^{10}}", r"5\%"), ("7", r"2 \text{ !}"), ("7", "1+2+...+10^{10^{10}}")):
        assert grade((reference, rf"\boxed{{{answer}}}"))[0] is False


def test_grading_imports_nothing(grade):
    """An item's time limit covers no imports: on a slow machine they take longer than it allows."""
    items = [(row["answer"], row["completion"]) for row in ROWS]
    done = run(
        "import sys; from dapo_lightning.grading.math_grader import MathGrader; early = set(sys.modules);"
        f"grade = MathGrader(); [grade(item) for item in {items!r}]; print(*early); print(*set(sys.modules) - early)",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    early, late = done.stdout.splitlines()
    assert late == "" and not {"sympy", "torch", "transformers"} & set(early.split())
    ours = {module for module in early.split() if module.startswith("dapo_lightning.")}
    assert ours == {f"dapo_lightning.grading{part}" for part in ("", *PARTS)}


def test_the_training_process_imports_no_mathematics():
    done = run(
        "import sys; from dapo_lightning.reward.math import Math; from dapo_lightning.types import Prompt;"
        "reward = Math(1, 60.0, 1000); reward.start();"
        r"print(reward([Prompt('', 'x+1', '')], [r'\boxed{1+x}'])[0].correct); reward.close(); print(*sys.modules)",
        timeout=120,
    )
    correct, modules = done.stdout.splitlines()
    assert correct == "True" and "dapo_lightning.grading.math_grader" not in modules.split()


def test_integers_are_graded_fast(grade):
    items = [(str(n), "So the sum is odd. " * 50 + rf"$\boxed{{{n + n % 2}}}$") for n in range(10_000, 14_000)]
    seconds = []
    for _ in range(3):
        start = time.process_time()
        assert sum(grade(item)[0] for item in items) == 2000
        seconds.append(time.process_time() - start)
    print(f"\n{len(items) / min(seconds):.0f} integer answers a second")
    assert len(items) / min(seconds) > 2000
