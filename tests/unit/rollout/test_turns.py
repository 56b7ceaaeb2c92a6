"""Conversations: the turns of a completion, and what they cost."""

from contextlib import contextmanager

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from dapo_lightning.forward.logprobs import completion_logps
from dapo_lightning.rollout import cache
from dapo_lightning.rollout.decode import Decode
from dapo_lightning.rollout.hf_generate import HFGenerate
from dapo_lightning.rollout.noise import uniform_noise
from dapo_lightning.rollout.turns import sampled_turns
from dapo_lightning.types import Generation, Trajectory

PROMPTS = [(10, 11, 12, 13, 14), (20, 21), (30,)]
NUM_COMPLETIONS, BUDGET = 6, 20
NOISE = uniform_noise(0, "test", [0, 1, 2], NUM_COMPLETIONS, BUDGET)
ENDS = (1, *range(40, 60))  # several, so that turns end at different times
GENERATION = Generation(BUDGET)


class Script:
    """Replies to a turn of an even number of tokens with a message as long as the turn, but at most 5; other turns are
    the last ones, as is the third of a row, and the one that uses up the budget."""

    max_message_tokens, max_messages = 5, 2

    def __init__(self, max_turn_tokens=BUDGET):
        self.max_turn_tokens, self.turns = max_turn_tokens, {}

    def reply(self, rows, turns):
        return [self._message(row, turn.tolist()) for row, turn in zip(rows, turns, strict=True)]

    def _message(self, row, turn):
        said = self.turns.setdefault(row, [])
        said.append(turn)
        if len(turn) % 2 or len(said) > self.max_messages or sum(map(len, said)) >= BUDGET:
            return None
        return tuple(70 + row % 3 + i for i in range(min(len(turn), 5)))


def converse(rollout, policy, script, prompts=PROMPTS, noise=NOISE):
    batches = sampled_turns(rollout, policy.model, prompts, noise, GENERATION, ENDS, script)
    return [completion for batch in batches for group in batch for completion in group]


@contextmanager
def counted_tokens(model):
    """Counts the tokens that are fed into the model."""
    counts = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, given, __: counts.append(given[0].numel()))
    try:
        yield counts
    finally:
        hook.remove()


def test_decode_converses_as_a_rollout_that_reads_the_conversation_again_in_each_turn(policy):
    for max_turn_tokens in (BUDGET, 7):
        ours, theirs = Script(max_turn_tokens), Script(max_turn_tokens)
        pairs = zip(converse(Decode(), policy, ours), converse(HFGenerate(), policy, theirs), strict=True)
        for one, other in pairs:
            assert one.tokens_T.tolist() == other.tokens_T.tolist() and one.truncated == other.truncated
            assert torch.equal(one.written_T, other.written_T)
            torch.testing.assert_close(one.logps_T, other.logps_T, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(one.entropies_T, other.entropies_T, atol=1e-4, rtol=1e-4)
        assert ours.turns == theirs.turns
        assert {len(said) for said in ours.turns.values()} >= {1, 3}


def test_turns_and_messages_alternate_and_the_policy_s_tokens_are_those_that_it_sampled(policy):
    script = Script()
    for row, completion in enumerate(converse(Decode(), policy, script)):
        turns = [turn.tolist() for turn in Trajectory.of(completion, 0).turns()]
        said = script.turns.get(row, [])
        assert turns[: len(said)] == said  # a truncated turn was not replied to
        assert completion.truncated == (len(turns) > len(said))
        assert all(turn[-1] in ENDS and not set(turn[:-1]) & {*ENDS} for turn in said)
        expected = []
        for number, turn in enumerate(turns):
            expected += turn
            if number < len(turns) - 1:
                expected += [70 + row % 3 + i for i in range(min(len(turn), 5))]
        assert completion.tokens_T.tolist() == expected
        assert not completion.logps_T[~completion.written_T].any()


@pytest.mark.parametrize("max_turn_tokens", [BUDGET, 4])
def test_budgets_of_a_turn_and_of_all_turns_truncate(policy, max_turn_tokens):
    script = Script(max_turn_tokens)
    cut = 0
    for completion in converse(Decode(), policy, script):
        *before, last = Trajectory.of(completion, 0).turns()
        spent = sum(map(len, before))
        assert all(len(turn) <= max_turn_tokens for turn in (*before, last)) and spent + len(last) <= BUDGET
        if completion.truncated:
            cut += 1
            assert len(last) == min(max_turn_tokens, BUDGET - spent)
    assert cut


def test_the_log_probs_of_all_turns_are_those_of_one_forward_pass(policy):
    completions = converse(Decode(), policy, Script())
    prompts = [prompt for prompt in PROMPTS for _ in range(NUM_COMPLETIONS)]
    with torch.no_grad():
        logps, _ = completion_logps(policy.model, prompts, [c.tokens_T for c in completions], temperature=1.0)
    for logps_T, completion in zip(logps, completions, strict=True):
        written_T = completion.written_T
        found_T = logps_T[: len(written_T)][written_T]
        torch.testing.assert_close(found_T, completion.logps_T[written_T], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["expanded", "none"])
def test_other_caches_hold_the_earlier_turns_too(policy, monkeypatch, kind):
    expected = [c.tokens_T.tolist() for c in converse(Decode(), policy, Script())]
    other = {"expanded": cache.ExpandedCache, "none": cache.NoCache}[kind]
    monkeypatch.setattr(cache, "SharedPromptCache", other)
    assert [c.tokens_T.tolist() for c in converse(Decode(), policy, Script())] == expected


def test_conversations_do_not_depend_on_the_batch_they_are_in(policy):
    together = [c.tokens_T.tolist() for c in converse(Decode(), policy, Script())]
    assert [c.tokens_T.tolist() for c in converse(Decode(max_rows=1), policy, Script())] == together


def test_a_later_turn_costs_its_own_tokens_and_not_those_of_the_turns_before(policy):
    with counted_tokens(policy.model) as counts:
        completions = converse(Decode(), policy, Script())
    lengths = [len(completion.tokens_T) for completion in completions]
    read, fed = sum(map(len, PROMPTS)), sum(length - 1 for length in lengths)  # nothing follows the last token
    assert counts[0] == read and fed <= sum(counts[1:]) <= 1.06 * fed  # rows leave in twentieths of the batch
    with counted_tokens(policy.model) as again:
        converse(HFGenerate(), policy, Script())
    assert sum(again) > 1.5 * sum(counts)


class OneMessage:
    """Replies once to each row, with 5 tokens."""

    max_turn_tokens, max_message_tokens, max_messages = 100, 5, 1

    def __init__(self):
        self.first_turns = {}

    def reply(self, rows, turns):
        new = {row: len(turn) for row, turn in zip(rows, turns, strict=True) if row not in self.first_turns}
        self.first_turns |= new
        return [(5,) * 5 if row in new and new[row] < 100 else None for row in rows]


def test_the_longest_context_does_not_get_the_largest_budget():
    """A GPT-2 has a vector for each position, and here no more of them than a prompt, a budget and a message need."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 90, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 3 + 100 + 5}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=1)).eval()
    noise, script = uniform_noise(0, "test", [0], num_completions=8, num_tokens=100), OneMessage()
    batches = sampled_turns(HFGenerate(), model, [(10, 11, 12)], noise, Generation(100), (1, 40), script)
    completions = [completion for batch in batches for group in batch for completion in group]
    assert min(script.first_turns.values()) < 20 and max(script.first_turns.values()) > 60
    assert all(completion.written_T.sum() <= 100 for completion in completions)
    with torch.no_grad():
        logps, _ = completion_logps(model, [(10, 11, 12)] * 8, [c.tokens_T for c in completions], temperature=1.0)
    for logps_T, completion in zip(logps, completions, strict=True):
        written_T = completion.written_T
        found_T = logps_T[: len(written_T)][written_T]
        torch.testing.assert_close(found_T, completion.logps_T[written_T], atol=1e-4, rtol=1e-4)
