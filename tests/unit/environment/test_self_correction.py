"""Self-correction: what the policy is told, what is graded, and what a trajectory is worth."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from conftest import tiny

from dapo_lightning.data import DataError
from dapo_lightning.draws.plain import plain, restored
from dapo_lightning.draws.stream import PromptStream
from dapo_lightning.draws.worker import RolloutWorker
from dapo_lightning.environment import Dialogue
from dapo_lightning.environment.conversations import Conversations
from dapo_lightning.environment.self_correction import SelfCorrection
from dapo_lightning.environment.single_turn import SingleTurn
from dapo_lightning.policy.chat import Chat
from dapo_lightning.reward import Reward
from dapo_lightning.reward.exact import Exact
from dapo_lightning.rollout.decode import Decode
from dapo_lightning.types import Completion, Generation, Grade, NumberedPrompt, Prompt, Trajectory

RIGHT, WRONG = Grade(1.0, True), Grade(-1.0, False)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def environment(**changes):
    return replace(SelfCorrection(3, wrong="no, not {answer}{detail}", right=None, max_turn_tokens=None,
                                  max_message_tokens=30), **changes)  # fmt: skip


def told(env, grade):
    return env.reply([Dialogue(Prompt("1+1=", "2", "test:0"), ("x",), (), (grade,))])[0]


def test_the_policy_is_told_the_verdict_or_what_failed_or_only_to_check():
    assert told(environment(), Grade(-1.0, False, answer="7")) == "no, not 7"
    assert told(environment(), Grade(-1.0, False, failure="timeout", detail="took 5 s")) == "no, not timeout: took 5 s"
    assert told(environment(), RIGHT) is None
    hidden = environment(wrong="check", right="check")
    assert told(hidden, RIGHT) == told(hidden, WRONG) == "check"


@pytest.mark.parametrize(
    ("grades", "score"),
    [([RIGHT], 1.0), ([WRONG, RIGHT], 0.5), ([WRONG, WRONG, RIGHT], 0.25), ([WRONG, WRONG], -1.0),
     ([RIGHT, WRONG], -1.3), ([RIGHT, WRONG, RIGHT], 0.25 - 0.3), ([RIGHT, RIGHT], 0.5)],
)  # fmt: skip
def test_right_answers_are_discounted_and_spoiling_one_costs(grades, score):
    final = environment(discount=0.5, spoilt=0.3).final(grades)
    assert final.score == pytest.approx(score) and final.correct == grades[-1].correct
    assert environment().final(grades) == grades[-1]


@pytest.mark.parametrize(
    "changes", [{"num_turns": 1}, {"discount": 0.0}, {"spoilt": -1.0}, {"max_turn_tokens": 0}, {"wrong": "x" * 31},
                {"right": ""}, {"max_message_tokens": 0}],
)  # fmt: skip
def test_settings_without_meaning_are_refused(changes):
    with pytest.raises(ValueError, match=rf"environment\.{next(iter(changes))}"):
        environment(**changes).start(tiny(seed=0).codec)


# --- conversations ----------------------------------------------------------------------------------------------------


def conversation(codec, env, budget=40, answer="2"):
    return Conversations(env, codec, Exact("#"), [Prompt("1+1=", answer, "test:0")], 2, budget)


def turn(codec, text):
    return torch.tensor([*codec.encode_text(text), codec.end_tokens[0]])


def test_the_last_answer_counts_and_every_turn_is_graded():
    codec = tiny(seed=0).codec
    talk = conversation(codec, environment())
    assert talk.reply([0, 1], [turn(codec, "#2"), turn(codec, "#3")]) == [None, codec.encode_text("no, not 3")]
    assert talk.reply([1], [turn(codec, "#4")]) == [codec.encode_text("no, not 4")]
    assert talk.reply([1], [turn(codec, "#2")]) == [None]
    texts, wait = talk.submit(
        0, [trajectory(codec, "#2"), trajectory(codec, "#3", "no, not 3", "#4", "no, not 4", "#2")]
    )
    assert texts == ("#2", "#3\nno, not 3\n#4\nno, not 4\n#2")
    assert [[grade.answer for grade in turns] for turns in wait()] == [["2"], ["3", "4", "2"]]


def trajectory(codec, *texts):
    parts = [turn(codec, text) if i % 2 == 0 else torch.tensor(codec.encode_text(text)) for i, text in enumerate(texts)]
    written_T = torch.cat([torch.full((len(part),), i % 2 == 0) for i, part in enumerate(parts)])
    zeros_T = torch.zeros(len(written_T))
    return Trajectory.of(Completion(torch.cat(parts), zeros_T, zeros_T, False, written_T), 0)


def test_a_conversation_ends_when_its_tokens_are_used_up():
    codec = tiny(seed=0).codec
    assert conversation(codec, environment(), budget=3).reply([0], [turn(codec, "#3")]) == [None]
    assert conversation(codec, environment(), budget=4).reply([0], [turn(codec, "#3")]) != [None]


def test_a_message_that_is_too_long_is_not_sent_and_that_is_said(caplog):
    codec = tiny(seed=0).codec
    assert conversation(codec, environment()).reply([0], [turn(codec, "#" + "x" * 30)]) == [None]
    assert "a message on test:0 has 38 tokens and was not sent" in caplog.text


def test_turns_end_and_begin_as_the_chat_template_says_and_nothing_is_tokenised_again():
    codec = tiny(seed=0).codec
    tokenizer = codec.tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    im_end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    chatting = replace(codec, chat=Chat(), end_tokens=(1, im_end))
    between = tokenizer("\n<|im_start|>user\nno<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False)
    assert list(chatting.encode_reply("no", last=im_end)) == between["input_ids"]
    assert list(chatting.encode_reply("no", last=1)) == [im_end, *between["input_ids"]]
    whole = [
        {"role": "user", "content": "1+1="},
        {"role": "assistant", "content": "#3"},
        {"role": "user", "content": "no"},
    ]
    said = [*codec.encode_text("#3"), im_end]
    ours = [*chatting.encode(Prompt("1+1=", "2", "test:0")), *said, *chatting.encode_reply("no", last=im_end)]
    assert ours == tokenizer.apply_chat_template(whole, add_generation_prompt=True)["input_ids"]
    tokenizer.chat_template = "{{ raise_exception('once only') if messages | length > 1 else messages[0]['content'] }}"
    with pytest.raises(DataError, match=r"refuses a second message of the user.*once only.*environment=single_turn"):
        chatting.encode_reply("no", last=im_end)


# --- whole groups -----------------------------------------------------------------------------------------------------


class Parity(Reward):
    """An answer is right if it has an even number of characters."""

    def submit(self, prompts, completions):
        grades = [Grade(1.0, True) if len(text) % 2 == 0 else Grade(-1.0, False) for text in completions]
        return lambda: grades


def groups(policy, env, num_tokens=12):
    codec = replace(policy.codec, end_tokens=(1, *range(40, 100)))
    worker = RolloutWorker(replace(policy, codec=codec), Decode(), Parity(), seed=0, environment=env)
    prompts = [NumberedPrompt(number, Prompt(f"{number}+1=", "", f"test:{number}")) for number in range(4)]
    return worker(prompts, 6, Generation(num_tokens), "train")


def test_groups_know_the_grades_of_their_turns_and_survive_a_checkpoint(policy):
    found = groups(policy, environment(wrong="no", spoilt=0.5, right="yes"))
    rows = [row for group in found for row in zip(group.trajectories, group.grades, group.turn_grades, strict=True)]
    assert {len(turns) for _, _, turns in rows} == {1, 2, 3}
    for trajectory_, grade, turns in rows:
        said = trajectory_.turns()
        assert len(said) == len(turns) and sum(map(len, said)) == trajectory_.num_tokens <= 12
        spoilt = sum(one.correct and not other.correct for one, other in pairwise(turns))
        assert grade.score == turns[-1].score - 0.5 * spoilt and grade.correct == turns[-1].correct
    again = restored(plain(found[0]), PromptStream([found[0].prompt], seed=0))
    assert again.turn_grades == found[0].turn_grades and again.grades == found[0].grades


def test_a_single_turn_has_no_grades_of_turns(policy):
    for group in groups(policy, SingleTurn()):
        assert group.turn_grades == () and all(t.loss_mask_T.all() for t in group.trajectories)
