"""Partial rollouts: groups that are generated over several steps, by several policies."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from conftest import algorithm, batch_of, mini_batch, tiny
from threads import on_threads

from dapo_lightning.algorithm.sampling import Dynamic
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.draws.fill import DrawLoader, PromptDraws, fill
from dapo_lightning.draws.slices import has_ended
from dapo_lightning.draws.stream import PromptStream
from dapo_lightning.draws.worker import RolloutWorker
from dapo_lightning.forward.logprobs import completion_logps
from dapo_lightning.reward import Reward
from dapo_lightning.rollout.decode import Decode
from dapo_lightning.rollout.hf_generate import HFGenerate
from dapo_lightning.run.checks import check_partial
from dapo_lightning.run.errors import ConfigError
from dapo_lightning.step import shares
from dapo_lightning.step.host import PolicyHost, StaleTrajectoryError
from dapo_lightning.types import Generation, Grade, Group, NumberedPrompt, Prompt, Slice

PROMPTS = [Prompt(f"{number}+1=", str(number + 1), f"test:{number}") for number in range(50)]
ENDS = tuple(range(12))
BUDGET, PART = 30, 8  # a completion ends after about 20 tokens; the last slice of its budget is shorter
NUM_STEPS = 5
SAMPLING = Dynamic(8, "train_partial", surplus="carry", partial=PART)


class EvenLength(Reward):
    def submit(self, prompts, completions):
        return lambda: [Grade(float(len(text) % 2), correct=len(text) % 2 == 0) for text in completions]


class Run:
    """Steps without an update: the weights of each step are made up. A forward pass computes the old log-probs."""

    def __init__(self, rollout=Decode()):  # noqa: B008
        policy = tiny(seed=0)
        self.policy = replace(policy, codec=replace(policy.codec, end_tokens=ENDS))
        self.host = PolicyHost(self.policy, 1.0, micro_batch_tokens=200, logps_are_exact=False)
        self.worker = RolloutWorker(self.policy, rollout, EvenLength(), seed=0)
        self.draws = PromptDraws(PromptStream(PROMPTS, seed=0), num_groups=3)
        self.begin = deepcopy(self.policy.model.state_dict())
        self.use_weights(0)

    def use_weights(self, number):
        generator = torch.Generator().manual_seed(number)
        weights = {n: v * 3 * (1 + 0.2 * torch.randn(v.shape, generator=generator)) for n, v in self.begin.items()}
        self.policy.model.load_state_dict(weights)

    def steps(self, numbers, ranks=Ranks()):  # noqa: B008
        for number in numbers:
            self.use_weights(number)

            def generate(prompts, part=None, number=number):
                return self.worker.generate(prompts, 4, Generation(BUDGET), "train", number, part)

            batch = shares.exchange(fill(self.draws, generate, SAMPLING, ranks), algorithm(), 1, 1, ranks)
            batch = self.host.with_old_logps(batch, algorithm(), number, ranks)
            yield batch
            self.draws.state = batch.next_state


@pytest.fixture(scope="module")
def run():
    return Run()


@pytest.fixture(scope="module")
def batches(run):
    return list(run.steps(range(NUM_STEPS)))


def key(group: Group):
    return group.number, [(t.tokens_T.tolist(), t.earlier, t.policy_step) for t in group.trajectories]


def test_each_token_has_the_log_prob_of_the_policy_that_wrote_it(run, batches):
    num_policies = set()
    groups = [group for batch in batches for group in batch.groups]
    for trajectory, prompt in [(t, group.prompt_tokens) for group in groups for t in group.trajectories]:
        spans = [*trajectory.earlier, (trajectory.policy_step, len(trajectory.tokens_T) - trajectory.num_earlier)]
        num_policies.add(len(spans))
        assert [step for step, _ in spans] == sorted({step for step, _ in spans}) and all(n > 0 for _, n in spans)
        start = 0
        for step, num_tokens in spans:
            run.use_weights(step)
            with torch.no_grad():
                logps, entropies = completion_logps(
                    run.policy.model, [prompt], [trajectory.tokens_T], 1.0, with_entropies=True
                )
            part = slice(start, start + num_tokens)
            torch.testing.assert_close(trajectory.logps_T[part], logps[0][part], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(trajectory.entropies_T[part], entropies[0][part], atol=1e-4, rtol=1e-4)
            start += num_tokens
    assert num_policies >= {1, 2}


def test_old_log_probs_are_computed_while_their_policy_is_there(batches):
    """For the tokens of unfinished groups, too, at the end of each step."""
    found = [(t, batch) for batch in batches for g in (*batch.groups, *batch.unfinished) for t in g.trajectories]
    for trajectory, _ in found:
        torch.testing.assert_close(trajectory.old_logps_T, trajectory.logps_T, atol=1e-4, rtol=1e-4)
    assert sum(trajectory.num_earlier > 0 for trajectory, _ in found) > 5


def test_no_group_is_lost_or_trained_on_twice(batches):
    finished = [record.number for batch in batches for record in batch.records]
    in_flight = [group.number for group in batches[-1].unfinished]
    assert sorted([*finished, *in_flight]) == list(range(batches[-1].num_drawn))
    trained = [group.number for batch in batches for group in batch.groups]
    kept = [group.number for batch in batches for group, verdict in batch.generated if verdict.keep]
    assert len(trained) == len(set(trained)) == NUM_STEPS * 3
    assert sorted([*trained, *(group.number for group in batches[-1].surplus)]) == sorted(kept)


def test_completions_end_at_an_end_token_or_at_their_whole_budget(batches):
    ended = [t for batch in batches for group, _ in batch.generated for t in group.trajectories]
    for trajectory in ended:
        ends = torch.isin(trajectory.tokens_T, torch.tensor(ENDS))
        assert not ends[:-1].any() and bool(ends[-1]) is not trajectory.truncated
        assert not trajectory.truncated or len(trajectory.tokens_T) == BUDGET
    assert {t.truncated for t in ended} == {True, False}


def test_a_step_ends_while_completions_are_in_flight(batches):
    assert all(len(batch.groups) == 3 for batch in batches)
    assert min(batch.num_rounds for batch in batches) * PART < BUDGET
    unfinished = [group for batch in batches for group in batch.unfinished]
    assert unfinished
    for group in unfinished:
        assert group.texts == () and not group.is_finished
        assert not all(has_ended(trajectory, ENDS) for trajectory in group.trajectories)


def test_a_useful_group_of_mixed_ages_is_trained_on(batches):
    groups = [group for batch in batches for group in batch.groups]
    mixed = [group for group in groups if len({(t.policy_step, t.earlier) for t in group.trajectories}) > 1]
    rows = mini_batch(mixed, algorithm()).rows
    assert mixed and len(rows) == 4 * len(mixed)
    assert {float(row.advantages.sign()) for row in rows} == {-1.0, 1.0}


def test_a_resumed_run_goes_on_with_the_groups_in_flight(batches):
    last = next(number for number in (1, 2, 3) if batches[number].unfinished)
    before, resumed = DrawLoader(PromptDraws(PromptStream(PROMPTS, seed=0), 3), NUM_STEPS), Run()
    before.draws.state = batches[last].next_state
    DrawLoader(resumed.draws, NUM_STEPS).load_state_dict(before.state_dict())
    (batch,), expected = list(resumed.steps([last + 1])), batches[last + 1]
    for found, same in ((batch.groups, expected.groups), (batch.unfinished, expected.unfinished)):
        assert list(map(key, found)) == list(map(key, same))
        for one, other in zip(found, same, strict=True):
            for t, copied in zip(one.trajectories, other.trajectories, strict=True):
                assert torch.equal(t.logps_T, copied.logps_T) and torch.equal(t.old_logps_T, copied.old_logps_T)


def test_ranks_generate_what_one_process_generates(batches):
    runs = [Run() for _ in range(2)]  # threads must not share a model
    two = on_threads(2, lambda ranks: list(runs[ranks.rank].steps(range(3), ranks)))
    for found in two:
        for batch, expected in zip(found, batches, strict=False):
            assert list(map(key, batch.unfinished)) == list(map(key, expected.unfinished))
            assert [group.number for group in batch.groups] == [group.number for group in expected.groups]
            assert (batch.num_drawn, batch.reasons) == (expected.num_drawn, expected.reasons)


@pytest.mark.parametrize("rollout", [Decode(max_rows=5), HFGenerate()], ids=["decode", "transformers"])
def test_slices_of_one_policy_make_up_the_completions_of_one_go(rollout):
    run = Run(rollout)
    prompts = [NumberedPrompt(number, prompt) for number, prompt in enumerate(PROMPTS[:2])]
    whole = run.worker(prompts, 4, Generation(BUDGET), "train")
    begun: dict[int, Group] = {}
    for _ in range(3):
        waiting = [numbered for numbered in prompts if not (g := begun.get(numbered.number)) or not g.is_finished]
        batches = run.worker.generate(waiting, 4, Generation(BUDGET), "train", 0, Slice(13, begun))
        begun |= {group.number: group for batch in batches for pending in batch for group in [pending()]}
    for group in whole:
        found = begun[group.number]
        assert found.texts == group.texts and found.grades == group.grades
        for one, other in zip(found.trajectories, group.trajectories, strict=True):
            assert one.tokens_T.tolist() == other.tokens_T.tolist() and one.earlier == ()
            assert one.truncated == other.truncated
            torch.testing.assert_close(one.logps_T, other.logps_T, atol=1e-4, rtol=1e-4)


def test_tokens_of_earlier_policies_without_old_log_probs_are_noticed(run, batches):
    batch = next(batch for batch in batches if batch.unfinished)
    (step,) = {t.policy_step for group in batch.unfinished for t in group.trajectories if not has_ended(t, ENDS)}
    with pytest.raises(StaleTrajectoryError, match="sampled after"):
        group = batch.unfinished[0]
        holed = [replace(t, earlier=((step - 1, 2),), old_logps_T=t.logps_T[:1]) for t in group.trajectories]
        run.host.with_old_logps(batch_of([replace(group, trajectories=tuple(holed))]), algorithm(), step, Ranks())


@pytest.mark.parametrize(
    ("changes", "num_turns", "says"),
    [({"max_new_tokens": 8}, 1, "max_new_tokens=8"), ({}, 2, "single_turn"), ({"stop": ["."]}, 1, r"stop=\[\]")],
)
def test_combinations_without_meaning_are_refused(changes, num_turns, says):
    settings = {"sampling": {"partial": 8}, "max_new_tokens": 9, "stop": []}
    check_partial(settings, num_turns=1)
    check_partial({**settings, "sampling": {"partial": None}, **changes}, num_turns)
    with pytest.raises(ConfigError, match=rf"sampling\.partial=8: .*{says}"):
        check_partial(settings | changes, num_turns)


def test_settings_without_meaning_are_refused():
    with pytest.raises(ValueError, match=r"sampling\.partial=0"):
        Dynamic(1, "error", surplus="carry", partial=0)
    with pytest.raises(ValueError, match=r"sampling\.partial=5 needs sampling\.surplus=carry"):
        Dynamic(1, "error", partial=5)
