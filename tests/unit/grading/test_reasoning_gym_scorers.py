"""No scorer of reasoning-gym evaluates what a policy wrote, in this version of the package or in a later one."""

import ast
import builtins
import inspect
import textwrap
from collections import Counter
from types import FunctionType

import pytest
from reasoning_gym import create_dataset
from reasoning_gym.factory import DATASETS

from dapo_lightning.data.reasoning_gym import ReasoningGym as Data
from dapo_lightning.grading.gym_scorer import EVALUATED, REFUSED, GymScorer
from dapo_lightning.reward.reasoning_gym import ReasoningGym

EVALUATORS = {
    "eval", "exec", "compile", "eval_expr", "parse_expr", "parse_latex", "sympify", "S", "lambdify", "literal_eval",
    "import_module", "__import__", "system", "Popen",
    "score_answer",  # of another task
}  # fmt: skip


def functions(value):
    """The package's own functions that `value` is or, if a class, has."""
    if inspect.isclass(value):
        return [f for part in vars(value).values() for f in functions(part)] if is_own(value) else []
    value = getattr(value, "__func__", getattr(value, "fget", value))
    return [value] if isinstance(value, FunctionType) and is_own(value) else []


def is_own(value):
    return value.__module__.startswith("reasoning_gym")


def evaluators_reached(task):
    """Names of evaluators in all that a task's scorer may call: whatever has a name that occurs in it, and so on."""
    todo, done, reached = [DATASETS[task][0].score_answer], set(), set()
    while todo:
        function = todo.pop()
        if function in done or inspect.unwrap(function).__code__.co_filename == "<string>":  # written by dataclasses
            continue
        done.add(function)
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
            name = getattr(node, "id", getattr(node, "attr", None))
            if name is None:
                continue
            method = inspect.getattr_static(DATASETS[task][0], name, None)
            own = functions(function.__globals__.get(name)) + functions(method)
            todo += own
            if name in EVALUATORS and (not own or name == "score_answer"):
                reached.add(name)
    return reached


def test_each_scorer_that_can_evaluate_text_has_an_alphabet_or_is_refused():
    assert {task for task in DATASETS if evaluators_reached(task)} == EVALUATED.keys() | REFUSED.keys()


TASKS = sorted(EVALUATED)
PAYLOADS = [
    "__import__('os').system('touch X')", "().__class__.__base__.__subclasses__()", "open('X','w')", "open(chr(88))",
    "ｏｐｅｎ('X','w')", "exec(chr(111))", "S.One.func", "x.func", "1 .real", "1.real", "(1).a", "A.B", "[].append",
    "lambda:0", "f'{1}'", "Symbol('x')", "exp.x", "sin(__import__('os').system('touch X'))", "9!", "1;2", "x=1",
    "[A for A in [1]]", "0!=1", "١+١", "1" * 50_001,
]  # fmt: skip
PLACES = ["{}", " {} ", "[{}]", "{}+1", "1+({})", "['{}']", "{right}+{}", "{right}\n{}", "[{}, {right}]"]


@pytest.mark.parametrize("task", TASKS)
def test_payloads_are_wrong_answers_that_reach_no_evaluator(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scorer, item = GymScorer(task, {}, None), create_dataset(task, seed=1, size=1)[0]
    reached, evaluate = [], eval
    monkeypatch.setattr(builtins, "eval", lambda text, *scopes: reached.append(text) or evaluate(text, *scopes))
    for payload in PAYLOADS:
        for place in PLACES:
            assert scorer((item, place.format(payload, right=item["answer"])))[0] == 0.0, (payload, place)
    assert reached == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", TASKS)
def test_right_answers_score_as_the_package_scores_them(task):
    scorer, dataset = GymScorer(task, {}, None), create_dataset(task, seed=1, size=8)
    scores = [scorer((item, item["answer"]))[0] for item in dataset]
    assert scores == [dataset.score_answer(item["answer"].strip(), item) for item in dataset]
    assert max(scores) == 1.0


@pytest.mark.parametrize(
    ("task", "spelt", "score"),
    [
        ("string_insertion", lambda answer: str(list(answer)), 0.1),
        ("binary_matrix", lambda answer: str([[int(x) for x in line.split()] for line in answer.split("\n")]), 0.1),
        ("n_queens", lambda answer: str([line.split() for line in answer.split("\n")]), 0.5),
        ("spiral_matrix", lambda answer: str(answer.split()).replace("'", ""), 0.1),
        ("polynomial_multiplication", lambda answer: f"({answer})*(3/3)", 1.0),
        ("simple_integration", lambda answer: f"1.5 + {answer}", 1.0),
        ("countdown", lambda answer: f" ({answer})\n", 1.0),
    ],
)
def test_what_is_evaluated_and_harmless_still_is(task, spelt, score):
    item = create_dataset(task, seed=1, size=1)[0]
    assert GymScorer(task, {}, None)((item, spelt(item["answer"])))[0] == score


@pytest.mark.parametrize(
    "evaluate",
    [eval, exec, lambda text: compile(text, "<any>", "exec"), lambda text: __import__("sympy").sympify(text)],
)
def test_no_other_scorer_can_turn_text_into_code(evaluate, tmp_path, monkeypatch):
    """As a later version of the package may try."""
    monkeypatch.chdir(tmp_path)
    scorer = GymScorer("chain_sum", {}, None)
    monkeypatch.setattr(scorer._dataset, "score_answer", lambda answer, entry: evaluate(answer) or 1.0)
    with pytest.raises(RuntimeError, match="tried to evaluate"):
        scorer(({}, "open('X','w')"))
    assert list(tmp_path.iterdir()) == []
    assert eval("1+1") == 2


def test_the_other_scorers_need_no_code():
    for task in sorted(DATASETS.keys() - EVALUATED.keys() - REFUSED.keys() - {"codeio"}):  # which writes 100 MB first
        dataset = create_dataset(task, seed=1, size=1)
        answer = dataset[0]["answer"] or "[]"
        assert GymScorer(task, {}, None)((dataset[0], answer))[0] == dataset.score_answer(answer.strip(), dataset[0]), (
            task
        )


TRIVIAL = [
    "", "nan", "-nan", "nan+nanj", "inf", "-inf", "infinity", "1e999", "0", "1", "-1", "0.0", "1/0", "[]", "{}", "()",
    "[[]]", "[nan]", '{"a": 1}', "None", "null", "True", "False", "yes", "no", "a", "?", ",", "''", "answer",
    "unknown", "impossible", "True False", "yes no", "0 1 2 3 4 5 6 7 8 9", "A B C D E", "1" * 5000, "[" * 5000, "٣",
]  # fmt: skip


def same(answer, reference):
    """As a person who is in no mood to quarrel would say."""
    one, other = (str(text).strip().casefold() for text in (answer, reference))
    try:
        return one == other or float(one) == float(other)
    except ValueError:
        return False


@pytest.mark.parametrize("task", sorted(DATASETS.keys() - REFUSED.keys() - {"codeio"}))
def test_no_trivial_answer_is_right_unless_it_is_the_right_one(task):
    """A few tasks have several right answers, and a trivial one may be among them; none is right at most questions."""
    scorer, free = GymScorer(task, {}, None), Counter()
    items = [item for seed in (1, 1001) for item in create_dataset(task, seed=seed, size=4)]
    for item in items:
        derived = {"the question": item["question"], "the first character": str(item["answer"])[:1]}
        for name, answer in {**{text: text for text in TRIVIAL}, **derived}.items():
            score, _ = scorer((item, answer))
            assert 0 <= score <= 1
            free[name] += score > 0.5 and not same(answer, item["answer"])
    assert {answer: count for answer, count in free.items() if count > len(items) / 4} == {}


def test_what_cannot_be_told_from_hostile_text_is_refused_at_start():
    with pytest.raises(ValueError, match=r"reward\.task=composite: its scorer passes.*Choose one"):
        ReasoningGym(1, 5.0, 500, task="composite", pattern=None).start()
    options = {"variables": ["foo"], "allow_cross_variable_product": False}
    with pytest.raises(ValueError, match=r"right answer is '.*foo.*data\.options"):
        ReasoningGym(1, 5.0, 500, task="polynomial_multiplication", pattern=None, options=options).start()


def test_the_reward_of_a_task_that_evaluates(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prompts = Data("countdown", num_train=2, num_validation=1, seed=0).train_prompts()
    reward = ReasoningGym(1, 20.0, 500, task="countdown", pattern=None)
    right, hostile = reward(prompts, [prompts[0].answer, "__import__('os').system('touch X')"])
    reward.close()
    assert (right.score, right.correct) == (1.0, True)
    assert (hostile.score, hostile.correct, hostile.failure) == (0.0, False, None)
    assert list(tmp_path.iterdir()) == []
