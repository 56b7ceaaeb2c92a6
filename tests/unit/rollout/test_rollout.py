import pytest
import torch

from dapo_lightning.forward.logprobs import completion_logps
from dapo_lightning.rollout import prompt_block, shared_cache
from dapo_lightning.rollout.decode import Decode
from dapo_lightning.rollout.hf_generate import HFGenerate
from dapo_lightning.rollout.noise import uniform_noise
from dapo_lightning.rollout.sample import sample_tokens
from dapo_lightning.rollout.stop import StopTexts
from dapo_lightning.rollout.weights import prepared_weights
from dapo_lightning.types import Generation

PROMPTS = [(10, 11, 12, 13, 14), (20, 21), (30,)]  # unequal lengths: left padding matters
NOISE = uniform_noise(0, "test", [0, 1, 2], num_completions=8, num_tokens=20)
ENDS = (1, 40, 41, 42, 43)  # several, so that rows end at different times


def flat(batches):
    return [completion for batch in batches for group in batch for completion in group]


def test_temperature_0_takes_the_most_probable_token():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    tokens, logps, entropies = sample_tokens(logits, torch.tensor([0.99, 0.99]), 0.0, 1.0)
    assert tokens.tolist() == [1, 0]
    torch.testing.assert_close(logps, logits.log_softmax(1)[[0, 1], [1, 0]])
    torch.testing.assert_close(entropies, sample_tokens(logits, torch.zeros(2), 1.0, 1.0)[2])
    assert sample_tokens(torch.full((1, 3), torch.nan), torch.zeros(1), 0.0, 1.0)[1].isnan()


def test_greedy_completions_do_not_depend_on_the_noise(policy):
    rollouts = [rollout(policy.model, PROMPTS, noise, Generation(20, 0.0), ENDS)
                for rollout in (Decode(), HFGenerate()) for noise in (NOISE, 1 - NOISE)]  # fmt: skip
    first, *others = [[completion.tokens_T.tolist() for completion in flat(one)] for one in rollouts]
    assert all(other == first for other in others)


@pytest.mark.parametrize("generation", [Generation(20), Generation(20, 0.7), Generation(20, 1.3, 0.6)], ids=repr)
def test_decode_samples_what_generate_samples(policy, generation):
    ours = flat(Decode()(policy.model, PROMPTS, NOISE, generation, ENDS))
    theirs = flat(HFGenerate()(policy.model, PROMPTS, NOISE, generation, ENDS))
    assert len(ours) == len(theirs) == 24
    assert len({len(completion.tokens_T) for completion in ours}) > 3
    for one, other in zip(ours, theirs, strict=True):
        assert one.tokens_T.tolist() == other.tokens_T.tolist()
        assert one.truncated == other.truncated
        torch.testing.assert_close(one.logps_T, other.logps_T, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(one.entropies_T, other.entropies_T, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("generation", [Generation(20), Generation(20, 0.7), Generation(20, 1.3, 0.6)], ids=repr)
def test_recorded_logps_are_those_of_a_forward_pass(policy, generation):
    completions = flat(Decode()(policy.model, PROMPTS, NOISE, generation, ENDS))
    prompts = [prompt for prompt in PROMPTS for _ in range(8)]
    with torch.no_grad():
        logps, _ = completion_logps(policy.model, prompts, [c.tokens_T for c in completions], generation.temperature)
    for row, completion in enumerate(completions):
        length = len(completion.tokens_T)
        torch.testing.assert_close(logps[row, :length], completion.logps_T, atol=1e-4, rtol=1e-4)
        assert not logps[row, length:].any()


def test_logps_match_a_slow_loop_one_token_at_a_time(policy):
    prompt, completion, temperature = (5, 6, 7), torch.tensor([8, 9, 1]), 0.7
    expected, seen = [], list(prompt)
    for token in completion.tolist():
        logits = policy.model(torch.tensor([seen])).logits[0, -1] / temperature
        expected.append(logits.log_softmax(0)[token])
        seen.append(token)
    padded_with_longer = [(5,), prompt], [torch.arange(5, 17), completion]
    logps, _ = completion_logps(policy.model, *padded_with_longer, temperature)
    torch.testing.assert_close(logps[1, :3], torch.stack(expected), atol=1e-4, rtol=1e-4)
    assert not logps[1, 3:].any()


def test_completions_do_not_depend_on_the_batch_they_are_in(policy):
    (together,) = Decode()(policy.model, PROMPTS, NOISE, Generation(20), ENDS)
    for index, prompt in enumerate(PROMPTS):
        ((alone,),) = Decode(max_rows=1)(policy.model, [prompt], NOISE[index : index + 1], Generation(20), ENDS)
        assert [c.tokens_T.tolist() for c in alone] == [c.tokens_T.tolist() for c in together[index]]


def test_prompts_that_are_read_in_several_passes_give_the_same_completions(policy, monkeypatch):
    prompts = [*PROMPTS, PROMPTS[1]]  # one of them twice
    noise = uniform_noise(0, "test", range(4), num_completions=8, num_tokens=20)
    whole = flat(Decode()(policy.model, prompts, noise, Generation(20), ENDS))
    monkeypatch.setattr(shared_cache, "READ_AT_ONCE", 6)  # 5 tokens; 2 and 1
    for one, other in zip(flat(Decode()(policy.model, prompts, noise, Generation(20), ENDS)), whole, strict=True):
        assert one.tokens_T.tolist() == other.tokens_T.tolist()
        torch.testing.assert_close(one.logps_T, other.logps_T, atol=1e-5, rtol=1e-5)


def test_prompts_are_divided_into_blocks_only_where_that_saves_much():
    assert prompt_block.alike([30, 900, 40], [8, 1, 8]) == [[0, 1, 2]]  # further calls would cost more
    continued, fresh = [1200, 1300, 1400, 1500] * 10, [30, 40] * 8
    assert prompt_block.alike(fresh + continued, [8] * 16 + [1] * 40) == [[*range(16)], [*range(16, 56)]]
    assert prompt_block.alike([64] * 40 + [100_000], [8] * 41) == [[*range(40)], [40]]
    assert prompt_block.alike([600] * 100, [1] * 99 + [256]) == [[*range(99)], [99]]


@pytest.mark.parametrize("waste", [2.0, 1.0])
def test_prompts_in_several_blocks_give_the_same_completions(policy, monkeypatch, waste):
    """Blocks of one and of several prompts, of which some end before others."""
    prompts = [PROMPTS[0], PROMPTS[1], PROMPTS[1], PROMPTS[2], (50, 51), (60,)]
    noise = uniform_noise(0, "test", range(6), num_completions=4, num_tokens=20)
    whole = flat(Decode()(policy.model, prompts, noise, Generation(20), ENDS))
    monkeypatch.setattr(prompt_block, "WASTE", waste)
    monkeypatch.setattr(prompt_block, "CALL", 1)
    for one, other in zip(flat(Decode()(policy.model, prompts, noise, Generation(20), ENDS)), whole, strict=True):
        assert one.tokens_T.tolist() == other.tokens_T.tolist()
        torch.testing.assert_close(one.logps_T, other.logps_T, atol=1e-5, rtol=1e-5)


def test_truncated_means_the_budget_was_hit_without_an_end_token(policy):
    for rollout in (Decode(), HFGenerate()):
        for completion in flat(rollout(policy.model, PROMPTS, NOISE, Generation(20), ENDS)):
            ended = completion.tokens_T[-1].item() in ENDS
            assert completion.truncated == (not ended)
            assert ended or len(completion.tokens_T) == 20
            assert not set(completion.tokens_T[:-1].tolist()) & set(ENDS)


def test_end_token_in_the_last_place_is_not_truncation(policy):
    one_token = NOISE[:, :, :1]
    for completion in flat(Decode()(policy.model, PROMPTS, one_token, Generation(1), tuple(range(300)))):
        assert len(completion.tokens_T) == 1 and not completion.truncated


def test_sampled_frequencies_and_entropy():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1e9]])
    noise = (torch.arange(100_000) + 0.5) / 100_000
    tokens, logps, entropies = sample_tokens(logits.expand(100_000, 4), noise, temperature=2.0, top_p=1.0)
    probabilities = torch.tensor([0.0, 0.5, 1.0]).softmax(0)
    frequencies = tokens.bincount(minlength=4) / 100_000
    torch.testing.assert_close(frequencies[:3], probabilities, atol=1e-4, rtol=0)
    assert frequencies[3] == 0
    torch.testing.assert_close(logps, probabilities.log()[tokens], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropies[0], -(probabilities * probabilities.log()).sum())


def test_nucleus_keeps_the_smallest_set_that_reaches_top_p():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()[None].expand(1000, 4)
    noise = torch.arange(1000) / 1000
    tokens, logps, _ = sample_tokens(logits, noise, temperature=1.0, top_p=0.7)
    assert set(tokens.tolist()) == {0, 1}
    torch.testing.assert_close((tokens == 0).float().mean(), torch.tensor(0.625), atol=2e-3, rtol=0)
    torch.testing.assert_close(logps[0], torch.tensor(0.5).log())  # recorded before narrowing


def test_extreme_noise_never_picks_an_impossible_token():
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]]).expand(2, 4)
    tokens, _, entropies = sample_tokens(logits, torch.tensor([0.0, 1.0]), 1.0, 1.0)
    assert tokens.tolist() == [1, 2]
    assert entropies.isfinite().all()


def test_noise_is_keyed_by_seed_stream_and_draw():
    base = uniform_noise(0, "train", [5], 2, 3)
    assert torch.equal(base[0], uniform_noise(0, "train", [4, 5], 2, 3)[1])
    for other in (uniform_noise(1, "train", [5], 2, 3), uniform_noise(0, "validation", [5], 2, 3)):
        assert not torch.equal(base, other)
    assert (base >= 0).all() and (base < 1).all()


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ((0,), "max_new_tokens"),
        ((5, -1.0), "temperature"),
        ((5, 1.0, 0.0), "top_p"),
        ((5, 1.0, 1.0, 0), "top_k"),
        ((5, 1.0, 1.0, None, 1.0), "min_p"),
    ],
)
def test_generation_without_meaning_is_refused(arguments, key):
    with pytest.raises(ValueError, match=key):
        Generation(*arguments)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_prepared_weights_compute_the_same_and_leave_no_trace(policy, precision):
    model, tokens = policy.model, torch.tensor([PROMPTS[0]])
    with torch.no_grad(), torch.autocast("cpu", precision, enabled=precision == torch.bfloat16, cache_enabled=False):
        expected = model(tokens).logits
        with pytest.raises(KeyboardInterrupt), prepared_weights(model):
            prepared = [name for name, module in model.named_modules() if "forward" in module.__dict__]
            torch.testing.assert_close(model(tokens).logits, expected, atol=1e-4, rtol=1e-4)
            raise KeyboardInterrupt
        assert "lm_head" in prepared and len(prepared) == 15
        assert not any("forward" in module.__dict__ for module in model.modules())
        for weight in model.parameters():  # neither the blocks nor autocast's copies outlive the block
            weight.mul_(0.5)
        assert not torch.allclose(model(tokens).logits, expected)
        with prepared_weights(model):
            fresh = model(tokens).logits
        torch.testing.assert_close(model(tokens).logits, fresh, atol=1e-4, rtol=1e-4)


def test_top_k_and_min_p_exclude_tokens_and_the_recorded_log_probs_are_those_of_the_full_distribution():
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()[None].expand(1000, 4)
    noise = torch.arange(1000) / 1000

    def sampled(**options):
        tokens, logps, entropies = sample_tokens(logits, noise, 1.0, options.pop("top_p", 1.0), **options)
        torch.testing.assert_close(logps, logits[0].log_softmax(0)[tokens])
        torch.testing.assert_close(entropies, -(logits.exp() * logits).sum(dim=1))
        return (tokens.bincount(minlength=4) / 1000).tolist()

    assert sampled(top_k=2) == pytest.approx([4 / 7, 3 / 7, 0, 0], abs=2e-3)
    assert sampled(min_p=0.4) == pytest.approx([4 / 9, 3 / 9, 2 / 9, 0], abs=2e-3)
    assert sampled(top_k=1) == sampled(min_p=0.9) == [1.0, 0, 0, 0]
    assert sampled(top_k=9) == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=2e-3)
    assert sampled(top_k=2, top_p=0.5) == [1.0, 0, 0, 0]  # 4/7 of what top_k leaves is more than a half


@pytest.mark.parametrize(
    "restricted", [{"top_k": 5}, {"min_p": 0.1}, {"top_k": 20, "min_p": 0.02, "top_p": 0.8}], ids=str
)
def test_all_rollouts_restrict_alike(policy, restricted):
    generation = Generation(20, **restricted)
    ours, theirs = (flat(one(policy.model, PROMPTS, NOISE, generation, ENDS)) for one in (Decode(), HFGenerate()))
    assert [c.tokens_T.tolist() for c in ours] == [c.tokens_T.tolist() for c in theirs]
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.logps_T, other.logps_T, atol=1e-4, rtol=1e-4)


def test_bfloat16_is_the_precision_of_the_rollout_alone(policy):
    completions = flat(Decode(dtype="bfloat16")(policy.model, PROMPTS, NOISE, Generation(20), ENDS))
    assert not torch.is_autocast_enabled("cpu")
    prompts = [prompt for prompt in PROMPTS for _ in range(8)]
    with torch.no_grad():
        logps, _ = completion_logps(policy.model, prompts, [c.tokens_T for c in completions], 1.0)
    gaps = torch.cat([(logps[i, : len(c.tokens_T)] - c.logps_T).abs() for i, c in enumerate(completions)])
    assert 1e-4 < gaps.mean() < 0.05
    with pytest.raises(ValueError, match=r"rollout\.dtype=float16"):
        Decode(dtype="float16")


def test_a_stop_text_ends_a_completion_and_stays_part_of_it(policy):
    decode = policy.codec.tokenizer.decode
    free = flat(Decode()(policy.model, PROMPTS, NOISE, Generation(20), ENDS))
    text = decode(free[0].tokens_T[3:5])  # two tokens, so that it is completed by the second
    stop = StopTexts(policy.codec.tokenizer, [text, "%"])
    generation = Generation(20, stop=stop)
    ours, theirs = (flat(one(policy.model, PROMPTS, NOISE, generation, ENDS)) for one in (Decode(), HFGenerate()))
    assert [c.tokens_T.tolist() for c in ours] == [c.tokens_T.tolist() for c in theirs]
    assert [c.truncated for c in ours] == [c.truncated for c in theirs]
    assert decode(ours[0].tokens_T).endswith(text) and not ours[0].truncated
    for one, other in zip(ours, free, strict=True):
        assert other.tokens_T.tolist()[: len(one.tokens_T)] == one.tokens_T.tolist()
        if len(one.tokens_T) < len(other.tokens_T):
            assert decode(one.tokens_T).endswith((text, "%"))
        assert not any(stop_text in decode(one.tokens_T[:-1]) for stop_text in (text, "%"))
