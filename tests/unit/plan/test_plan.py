"""The plan against real runs of the same code at sizes that fit here, and against numbers worked by hand."""

import time
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from conftest import algorithm
from omegaconf import OmegaConf
from runs import ROOT
from runs import config as composed
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from dapo_lightning.forward.head import CHUNK_LOGITS
from dapo_lightning.forward.layout import SHARED_PROMPT
from dapo_lightning.forward.logprobs import completion_logps
from dapo_lightning.plan import ACCELERATORS, Cluster, cluster_of, known_config, plan
from dapo_lightning.plan.__main__ import overview
from dapo_lightning.plan.activations import MicroBatch, SavedTensors, saved_bytes
from dapo_lightning.plan.assessment import assess
from dapo_lightning.plan.cost import forward_flops
from dapo_lightning.plan.engine import ASLEEP, cached_tokens, kv_bytes, steps, weights
from dapo_lightning.plan.job import job_of
from dapo_lightning.plan.memory import capacity, decode_copy, kv_cache, largest_micro_batch, phases
from dapo_lightning.plan.model import as_text, sizes_of
from dapo_lightning.policy import Policy
from dapo_lightning.policy.tiny import TinyPolicy
from dapo_lightning.policy.value_model import value_model
from dapo_lightning.rollout.cache import read_prompts
from dapo_lightning.rollout.shared_cache import SharedPromptCache
from dapo_lightning.rollout.weights import prepared_weights
from dapo_lightning.run.cli import main
from dapo_lightning.step.experience import Row
from dapo_lightning.step.objective import surrogate_loss
from dapo_lightning.types import Completion, Trajectory

SMOLLM2 = ROOT / "outputs/smollm2"
LAPTOP = Cluster(ACCELERATORS["laptop"])
ONE_PROMPT = MicroBatch(1, 13, 6, 20)  # what the measured runs compute: six completions of one prompt


def settings(*overrides):
    return OmegaConf.to_container(composed("run_folder=x", *overrides), resolve=True)


def paper(*overrides):
    """The paper's run with the default rollout, unless another one is given."""
    rollout = [] if any(override.startswith("rollout=") for override in overrides) else ["rollout=decode"]
    return settings("experiment=paper_32b", *rollout, *overrides)


SMALL = ("policy.warm_start=null", "num_completions_per_prompt=6", "num_prompts_per_step=4", "max_prompt_tokens=13",
         "max_new_tokens=20", "overlong.cache_tokens=4", "micro_batch_tokens=133", "rollout.max_rows=6")  # fmt: skip


@pytest.fixture(scope="module", params=["tiny", "smollm2"])
def model(request):
    if request.param == "tiny":
        return wide_tiny()
    if not (SMOLLM2 / "config.json").is_file():
        pytest.skip("`make smollm2` has not been run")
    smollm2 = AutoModelForCausalLM.from_pretrained(SMOLLM2, dtype=torch.float32).eval()
    smollm2.set_attn_implementation(SHARED_PROMPT)
    return smollm2


def wide_tiny():
    """The default policy=tiny, with random weights."""
    source = settings("policy.warm_start=null")["policy"]
    policy = TinyPolicy(**{name: value for name, value in source.items() if name != "_target_"})
    return policy.load(policy.codec(), None, None).model


def rows(micro_batch):
    prompt = tuple(range(3, 3 + micro_batch.prompt_tokens))
    made = []
    for row in range(int(micro_batch.num_rows)):
        tokens = torch.arange(micro_batch.new_tokens) + 3 + row
        zeros = torch.zeros(len(tokens))
        trajectory = Trajectory.of(Completion(tokens, zeros, zeros, False), policy_step=0)
        trajectory = replace(trajectory, old_logps_T=zeros - 3)
        made.append(Row(prompt, trajectory, torch.ones(1), torch.full((1,), 0.01)))
    return made


# --- compared with measurements --------------------------------------------------------------------------------------


def test_weights_are_counted_exactly(model):
    sizes = sizes_of(model.config)
    assert sizes.parameters == sum(weight.numel() for weight in model.parameters())
    assert sizes.head == model.get_output_embeddings().weight.numel() and sizes.is_tied
    assert sizes.cache == model.model.layers[0].self_attn.k_proj.out_features
    assert sizes.num_layers == len(model.model.layers)


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16-mixed"])
def test_saved_activations(model, autocast):
    """All that autograd saves in a real forward pass, log-softmax included: within 2 %."""
    saved, sizes = SavedTensors(model), sizes_of(model.config)
    batch = rows(ONE_PROMPT)
    with saved, torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=False):
        completion_logps(model, [row.prompt_tokens for row in batch], [row.trajectory.tokens_T for row in batch], 1.0)
    layer, around = saved_bytes(as_text(model.config), autocast, False) @ ONE_PROMPT.counts()
    planned = around + sizes.num_layers * layer + 4 * ONE_PROMPT.predicted * sizes.vocabulary  # of log-softmax
    print(f"saved: planned {planned:.0f}, measured {saved.num_bytes:.0f}, {planned / saved.num_bytes - 1:+.2%}")
    assert planned == pytest.approx(saved.num_bytes, rel=0.02)


def test_saved_activations_of_long_completions():
    """They attend without a mask, which would take 45 MB here: within 2 %."""
    model, long = wide_tiny(), MicroBatch(1, 13, 2, 1300)
    saved, sizes, batch = SavedTensors(model), sizes_of(model.config), rows(long)
    with saved:
        completion_logps(
            model, [row.prompt_tokens for row in batch], [row.trajectory.tokens_T % 60 for row in batch], 1.0
        )
    layer, around = saved_bytes(as_text(model.config), False, False) @ long.counts()
    planned = around + sizes.num_layers * layer + 4 * long.predicted * sizes.vocabulary
    print(f"saved: planned {planned:.0f}, measured {saved.num_bytes:.0f}, {planned / saved.num_bytes - 1:+.2%}")
    assert planned == pytest.approx(saved.num_bytes, rel=0.02)


def peak_of_update(model, autocast, context):
    """Bytes by kind after the backward pass of a micro-batch, and at its peak."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()  # makes Adam's moments; gradients stay, as those of an earlier micro-batch would
    batch, tracker = rows(ONE_PROMPT), MemTracker()
    tracker.track_external(model, optimizer)
    with tracker, context, torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=False):
        loss, _ = surrogate_loss(model, batch, algorithm(), 1.0)
        loss.backward()
    snapshots = [tracker.get_tracker_snapshot(when)[torch.device("cpu")] for when in ("current", "peak")]
    model.zero_grad()
    return snapshots


HELD = {"weights": "Parameter", "gradients": "Gradient", "optimizer states": "Optstate"}


def test_peak_of_an_update(model):
    """Compared with torch's memory tracker. Persistent tensors: exact; the rest of the peak: within 5 %."""
    now, peak = peak_of_update(model, autocast=False, context=nullcontext())
    found = assess(settings(*SMALL), model.config, LAPTOP)
    assert largest_micro_batch(found.job) == replace(ONE_PROMPT, num_rows=pytest.approx(6))
    update, total = found.phases["update"], found.totals["update"]
    for name, kind in HELD.items():
        print(f"{name}: planned {update[name]:.0f}, measured {now[kind]}")
        assert update[name] == pytest.approx(now[kind], rel=1e-3)  # each moment has a step counter beside it
    held = sum(now[kind] for kind in HELD.values())
    print(f"total: planned {total:.0f}, measured {peak['Total']}, {total / peak['Total'] - 1:+.2%}")
    assert total - held == pytest.approx(peak["Total"] - held, rel=0.05)


def beside_persistent_tensors(model, autocast, recomputes=False):
    """Planned and measured bytes at the peak, without weights, gradients and moments."""
    context = nullcontext()
    if recomputes:
        context = Policy(model, None, recomputes=True).recomputing_activations()
    now, peak = peak_of_update(model, autocast, context)
    precision = ["trainer.precision=bf16-mixed"] if autocast else []
    job = replace(job_of(settings(*SMALL, *precision), LAPTOP), recomputes=recomputes)
    saved = saved_bytes(as_text(model.config), autocast, False)
    items = phases(sizes_of(model.config), saved, job, LAPTOP)["update"]
    planned = sum(items.values()) - sum(items[name] for name in HELD)
    measured = peak["Total"] - sum(now[kind] for kind in HELD.values())
    print(f"on top: planned {planned:.0f}, measured {measured}, {planned / measured - 1:+.2%}")
    return planned, measured


@pytest.mark.parametrize(("autocast", "recomputes"), [(True, False), (False, True), (True, True)])
def test_peak_in_bf16_and_with_recomputation(autocast, recomputes):
    """The tiny policy, whose vocabulary is so small that the peak is in a layer: within 5 %."""
    planned, measured = beside_persistent_tensors(wide_tiny(), autocast, recomputes)
    assert planned == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16-mixed"])
def test_peak_in_the_logits(autocast):
    """More predictions than a hidden state has numbers, as in every real micro-batch; grouped heads: within 5 %."""
    config = LlamaConfig(
        vocab_size=20_000, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.set_attn_implementation(SHARED_PROMPT)
    planned, measured = beside_persistent_tensors(model, autocast)
    assert planned > 12 * ONE_PROMPT.predicted * config.vocab_size
    assert planned == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16-mixed"])
def test_kv_cache(model, autocast):
    """The memory of the real cache, grown beyond its first capacity with the tiny policy: exact."""
    num_tokens = 70 if model.config.num_hidden_layers == 2 else 8
    overrides = ["trainer.precision=bf16-mixed"] if autocast else []
    job = job_of(settings(*SMALL, f"max_new_tokens={num_tokens}", *overrides), LAPTOP)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        cache, _ = read_prompts(model, [tuple(range(13))], 6, torch.device("cpu"))
        assert isinstance(cache, SharedPromptCache)
        for token in range(num_tokens - 1):
            cache.step(torch.full((6,), token))
    own = [tokens._memory for pair in cache._own.values() for tokens in pair]
    prompts = [tensor for block in cache._blocks for pair in block.layers.values() for tensor in pair]
    measured = sum(tensor.untyped_storage().nbytes() for tensor in [*own, *prompts])
    planned = kv_cache(sizes_of(model.config), job, job.train)["KV cache"]
    print(f"KV cache: planned {planned:.0f}, measured {measured}")
    assert planned == measured


def test_copy_of_the_weights_for_decoding(model):
    """The numbers in oneDNN's blocks and in transposed copies: exact."""
    planned = decode_copy(sizes_of(model.config), job_of(settings(*SMALL), LAPTOP), LAPTOP)
    with prepared_weights(model):
        functions = [layer.__dict__["forward"] for layer in model.modules() if "forward" in layer.__dict__]
        cells = [cell.cell_contents for function in functions for cell in function.__closure__]
        copies = [cell for cell in cells if isinstance(cell, torch.Tensor) and not isinstance(cell, torch.nn.Parameter)]
        measured = sum(copy.numel() * copy.element_size() for copy in copies)
    print(f"weights for decoding: planned {planned:.0f}, measured {measured}")
    assert planned == measured


def test_operations(model):
    """Forward, and forward with backward, of a real micro-batch: within 1 %."""
    sizes, batch = sizes_of(model.config), rows(ONE_PROMPT)
    prompts, completions = [row.prompt_tokens for row in batch], [row.trajectory.tokens_T for row in batch]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logps, _ = completion_logps(model, prompts, completions, 1.0)
        ahead = counter.get_total_flops()
        logps.sum().backward()
    model.zero_grad()
    planned = forward_flops(sizes, ONE_PROMPT)
    both = counter.get_total_flops()
    print(f"forward: planned {planned:.0f}, measured {ahead}, {planned / ahead - 1:+.2%}")
    print(f"with backward: planned {3 * planned:.0f}, measured {both}, {3 * planned / both - 1:+.2%}")
    assert planned == pytest.approx(ahead, rel=0.01) and 3 * planned == pytest.approx(both, rel=0.01)


# --- worked by hand --------------------------------------------------------------------------------------------------

QWEN_32B = known_config("Qwen/Qwen2.5-32B")


def on(number, name="h100-sxm"):
    return Cluster(ACCELERATORS[name], number)


def test_weights_and_operations_of_qwen_32b():
    sizes = sizes_of(QWEN_32B)
    attention = 5120 * 5120 + 5120 + 2 * (5120 * 1024 + 1024) + 5120 * 5120
    layer = attention + 3 * 5120 * 27648 + 2 * 5120
    assert sizes.layer == layer == 487_605_248
    assert sizes.parameters == 64 * layer + 2 * 152_064 * 5120 + 5120 == 32_763_876_352
    assert sizes.num_layers == 64 and not sizes.is_tied and sizes.vocabulary == 152_064
    one_token_more = forward_flops(sizes, MicroBatch(1, 100, 1, 11)) - forward_flops(sizes, MicroBatch(1, 100, 1, 10))
    pairs = 10 * 110 - 9 * 109
    assert one_token_more == 2 * (sizes.body + sizes.head) + 4 * 64 * 40 * 128 * pairs
    assert 2 * (sizes.body + sizes.head) == pytest.approx(2 * 32.0e9, rel=0.001)  # all but embeddings and norms


def test_kv_cache_of_qwen_32b():
    """2 x 64 layers x 8 key heads x 128 numbers x 2 bytes = 262,144 a token; 20,479 tokens take room for 32,768."""
    job = job_of(paper("trainer=fsdp2", "rollout.max_rows=16"), on(8))
    assert capacity(20_479) == 32_768
    assert kv_cache(sizes_of(QWEN_32B), job, job.train)["KV cache"] == 262_144 * (16 * 32_768 + 2048)
    whole = job_of(paper("trainer=ddp", "rollout.max_rows=16"), on(8))  # keys are float32 under plain autocast
    assert kv_cache(sizes_of(QWEN_32B), whole, whole.train)["KV cache"] == 1.5 * 262_144 * (16 * 32_768 + 2048)


def test_memory_of_qwen_32b():
    """4 bytes a weight, 8 of moments, 4 of gradients, over 8 ranks; logits of one chunk instead of 20,480 tokens."""
    found = assess(paper("trainer=fsdp2", "micro_batch_tokens=1"), QWEN_32B, on(8)).phases
    update = found["update"]
    assert update["weights"] == update["gradients"] == update["optimizer states"] / 2 == 4 * 32_763_876_352 / 8
    assert 12 * CHUNK_LOGITS < update["logits, or a layer's workspace"] < 12 * 20_480 * 152_064 / 2  # that of a layer
    assert found["generate"]["whole weights"] == 2 * 32_763_876_352
    assert update["activations"] == pytest.approx(64 * 2 * 5120 * (2048 + 20_479), rel=0.07)  # inputs of layers, bf16
    assert assess(paper("trainer=fsdp2"), QWEN_32B, on(8)).loading_bytes == 4 * 32_763_876_352 / 8  # read into shards
    assert assess(paper("trainer=fsdp2", "policy=lora"), QWEN_32B, on(8)).loading_bytes == 4 * 32_763_876_352 / 8
    ppo = assess(paper("trainer=fsdp2", "experiment=ppo"), QWEN_32B, on(8))
    assert ppo.loading_bytes == 4 * 32_763_876_352 / 8 * 2  # the critic, too
    assert assess(paper("trainer=ddp"), QWEN_32B, on(8)).loading_bytes == 4 * 32_763_876_352  # whole, on each host
    offloaded = assess(paper("trainer=fsdp2", "trainer.offload_optimizer=true"), QWEN_32B, on(8)).phases
    assert all(("optimizer states" in items) == (phase == "optimizer step") for phase, items in offloaded.items())
    assert offloaded["optimizer step"] == {**found["optimizer step"], **offloaded["optimizer step"]}
    assert set(found) == {"generate", "log-probs", "update", "optimizer step", "evaluate"}


def test_the_paper_s_run_fits_with_engines_that_ranks_share():
    """Worked by hand: 80 GB x 0.6, less 3 GB, less an eighth of the weights, for keys and values of one head."""
    run = settings("recipe=paper_32b", "trainer=fsdp2", "plan.mean_tokens=5000")
    for number in (32, 64, 128):
        found = assess(run, QWEN_32B, on(number))
        assert found.fits and found.phases["generate"]["rollout engine"] == 48e9
        assert found.phases["update"]["rollout engine"] == ASLEEP
    kv = 2 * 2 * 64 * 128
    assert kv_bytes(found.sizes, found.job) == kv and weights(found.sizes, found.job) == 2 * 32_763_876_352 / 8
    room = (48e9 - 3e9 - 2 * 32_763_876_352 / 8) / kv
    assert cached_tokens(found.sizes, found.job, on(128)) == room
    at_once = room / (2048 / 16 + 5000 / 2)
    rows = 8 * 8 * 16
    assert steps(found.sizes, found.job, on(128), found.job.train) == max(20_480, rows * 5000 / at_once)
    update = found.phases["update"]
    assert max(found.totals.values()) < 73.6e9 and "whole weights" not in found.phases["generate"] | update
    generate = found.work[0]
    tokens = 8 * 8 * (2048 + 16 * 5000)
    assert generate.shared == pytest.approx(2 * 7 / 8 * 2 * 2 * 64 * 5120 * tokens)
    assert generate.exchanged == pytest.approx(2 * 127 / 128 * 32_763_876_352)


def test_engines_that_cannot_run_are_refused():
    def obstacles(*overrides, number=16):
        run = ("recipe=paper_32b", "trainer=fsdp2", *overrides)
        return " ".join(assess(settings(*run), QWEN_32B, on(number)).obstacles)

    assert not obstacles()
    assert "rollout.tensor_parallel_size=16 must divide" in obstacles("rollout.tensor_parallel_size=16")
    assert "rollout.tensor_parallel_size=8 must divide" in obstacles(number=4)
    assert "gpu_memory_utilization=0.1 is too low" in obstacles("rollout.gpu_memory_utilization=0.1")


def test_grouped_heads_and_tied_embeddings():
    sizes = sizes_of(known_config("Qwen/Qwen2.5-0.5B-Instruct"))
    assert sizes.parameters == 494_032_768 and sizes.is_tied and sizes.head == 151_936 * 896
    assert sizes.cache == 2 * 64 and sizes.attention == 24 * 14 * 64
    assert sizes.outside == sizes.head + 896  # once, and the last norm
    seven = sizes_of(known_config("Qwen/Qwen2.5-7B"))
    assert seven.parameters == 7_615_616_512 and seven.cache == 4 * 128
    assert seven.outside == 2 * 152_064 * 3584 + 3584


# --- what options declare ---------------------------------------------------------------------------------------------


def test_options_declare_their_needs():
    def job(*overrides, number=2):
        return job_of(settings(*overrides), on(number))

    assert [job(f"rollout={name}").rollout.name for name in ("decode", "transformers", "vllm")] == [
        "DECODE", "GENERATE", "ENGINE",
    ]  # fmt: skip
    assert job("trainer=fsdp2").sharded and not job("trainer=ddp").sharded and job("trainer=ddp").replicated
    assert not job("trainer=fsdp2", number=1).sharded
    assert job().train.num_groups == 2 * job("sampling=static").train.num_groups  # half of the groups are kept


@pytest.mark.parametrize(
    ("name", "options", "states"),
    [("AdamW", "fused: true", 2), ("Adam", "amsgrad: true", 3), ("SGD", "lr: 0.1", 0), ("SGD", "momentum: 0.9", 1)],
)
def test_optimizer_states_are_counted(name, options, states):
    config = settings() | {"optimizer": {"_target_": f"torch.optim.{name}", **OmegaConf.create(options)}}
    assert job_of(config, LAPTOP).optimizer_states == states


def test_an_unknown_option_of_the_optimizer_is_refused():
    with pytest.raises(ValueError, match=r"optimizer: .*betas"):
        job_of(settings("optimizer._target_=torch.optim.SGD"), LAPTOP)


# --- how it behaves --------------------------------------------------------------------------------------------------


def update_of(*overrides, number):
    return assess(paper(*overrides), QWEN_32B, on(number)).phases["update"]


def test_only_sharded_memory_is_divided():
    one, two, thirty_two = (update_of("trainer=fsdp2", number=number) for number in (1, 2, 32))
    for name in ("weights", "gradients", "optimizer states"):
        assert one[name] == 2 * two[name] == 32 * thirty_two[name]
    for name in ("activations", "logits, or a layer's workspace", "gathered layers"):
        assert two[name] == thirty_two[name]
    whole = update_of("trainer=ddp", number=32)
    assert whole["weights"] == whole["gradients"] == whole["DDP's buckets"] == one["weights"]
    sizes = sizes_of(QWEN_32B)
    assert sizes.parameters / 4096 < sizes.part(4096) < 2 * sizes.parameters / 4096  # parts are padded


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_critic_is_counted_exactly(is_tied):
    policy = wide_tiny()
    config = policy.config.__class__(**{**policy.config.to_dict(), "tie_word_embeddings": is_tied})
    made = value_model(Policy(LlamaForCausalLM(config), codec=None)).model
    expected = sum(weight.numel() for weight in made.parameters())
    without, with_critic = (assess(settings(*ppo), config, LAPTOP) for ppo in ([], ["experiment=ppo", "num_epochs=2"]))
    held, less = with_critic.phases["update"], without.phases["update"]
    assert held["critic"] == 4 * expected == held["gradients"] - less["gradients"]
    assert held["optimizer states"] - less["optimizer states"] == 8 * expected
    flops, before = ({part.name: part.flops for part in found.work} for found in (with_critic, without))
    assert flops["update"] == 2 * before["update"] and before["update"] < flops["critic's update"] < flops["update"]
    assert flops["critic's update"] == 6 * flops["values"]  # two passes, each of a forward and a backward pass


def test_thousands_of_ranks_take_no_time():
    config = paper("trainer=fsdp2", "num_prompts_per_step=65536")
    assess(config, QWEN_32B, on(8))  # the model is counted once
    start = time.process_time()
    found = assess(config, QWEN_32B, on(4096))
    assert time.process_time() - start < 0.5
    assert not found.obstacles and sum(part.flops for part in found.work) > 0


def test_a_plan_that_does_not_fit_says_so_and_its_advice_fits():
    """The advice is given to Hydra as it is printed: its keys are real."""
    made = plan(paper("trainer=fsdp2"), QWEN_32B, on(8))
    assert not made.fits and "It does not fit" in str(made) and made.advice
    overrides = [word for change in made.advice for word in change.override.split()]
    of_plan = dict(word.removeprefix("plan.").split("=") for word in overrides if word.startswith("plan."))
    cluster = on(int(of_plan.get("num_accelerators", 8)), of_plan.get("accelerator", "h100-sxm"))
    again = paper("trainer=fsdp2", *[word for word in overrides if not word.startswith("plan.")])
    assert plan(again, QWEN_32B, cluster).fits and made.with_advice.fits
    for change in made.advice:
        assert f"| {change.override}" in str(made)


def test_a_small_excess_needs_a_change_of_memory_only():
    config = settings("policy=hub", "policy.name=x", "trainer.precision=bf16-mixed", "max_prompt_tokens=512",
                      "max_new_tokens=4096", "micro_batch_tokens=65536", "rollout.max_rows=16")  # fmt: skip
    made = plan(config, known_config("Qwen/Qwen2.5-0.5B"), on(1))
    assert not made.fits and {change.affects for change in made.advice} == {"memory and speed only"}


def test_a_plan_that_no_change_helps_says_so():
    """Two completions in each mini-batch are work for two ranks, and no accelerator holds 8 bytes a weight."""
    made = plan(paper("num_prompts_per_step=16", "num_completions_per_prompt=2"), QWEN_32B, on(1))
    assert not made.fits and not made.advice and made.with_advice is None
    assert "No change that was tried makes it fit" in str(made)


def test_groups_are_divided_among_ranks():
    """512 completions in a mini-batch: 128 ranks get 4 of them each, however many groups there are."""
    paper_run = paper("trainer=fsdp2")
    found = {ranks: assess(paper_run, QWEN_32B, on(ranks)) for ranks in (8, 32, 128, 96)}
    assert [found[ranks].job.num_rows for ranks in (8, 32, 128)] == [64, 16, 4]
    assert [found[ranks].job.num_prompts for ranks in (8, 32, 128)] == [4, 1, 4]
    assert not found[128].obstacles and "512 completions" in found[96].obstacles[0]
    update = {ranks: found[ranks].work[-1].flops for ranks in (32, 128)}
    assert update[128] == pytest.approx(update[32] / 4, rel=0.1)  # prompts are read more often


def test_what_ranks_exchange_beside_weights_and_gradients():
    config = paper("trainer=ddp", "plan.mean_tokens=5000", "policy.dtype=bfloat16")
    found = assess(config, QWEN_32B, on(128))
    gradients = 16 * 2 * 127 / 128 * 4 * found.sizes.parameters
    completions = found.work[-1].exchanged - gradients
    assert completions == pytest.approx(127 / 128 * 8192 * (250 + 8 * 5000 / 128), rel=1e-3)  # 4.6 MB in a step


def test_recomputation_costs_operations():
    def passes(*overrides):
        return {part.name: part.flops for part in assess(paper("trainer=fsdp2", *overrides), QWEN_32B, on(8)).work}

    recomputed = passes()
    kept = passes("trainer.activation_checkpointing=false")
    assert recomputed["update"] == pytest.approx(4 / 3 * kept["update"])
    assert recomputed["update"] == pytest.approx(4 * recomputed["log-probs"])  # old log-probs: bf16 has none exact
    assert passes("kl=k3")["log-probs"] == pytest.approx(2 * recomputed["log-probs"])
    assert passes("kl=k3", "num_epochs=2")["log-probs"] == passes("kl=k3")["log-probs"]  # all passes use the same ones
    assert "log-probs" not in passes("trainer.precision=32-true") and "marks" not in recomputed
    once, twice = passes("clip=clip_cov")["marks"], passes("clip=clip_cov", "num_epochs=2")["marks"]
    assert once == recomputed["log-probs"] and twice == 2 * once  # before each gradient step


def test_dynamic_sampling_generates_more():
    def generated(**expected):
        config = paper("trainer=fsdp2") | {"plan": expected}
        return assess(config, QWEN_32B, on(8)).work[0].flops

    assert generated(keep_rate=0.25) == pytest.approx(4 * generated(keep_rate=1.0))
    with pytest.raises(ValueError, match=r"plan\.keep_rate=0"):
        generated(keep_rate=0)
    assert generated(keep_rate=1.0, mean_tokens=1024) < generated(keep_rate=1.0) / 20


def test_adapters_and_the_reference_copy():
    lora = assess(settings("policy=lora", "policy.name=x", "kl=k3"), QWEN_32B, on(1)).phases["update"]
    trained = 16 * 64 * (2 * (5120 + 5120) + 2 * (5120 + 1024) + 3 * (5120 + 27_648))
    assert lora["gradients"] == 4 * trained and "reference copy" not in lora
    shared = assess(settings("policy=lora", "policy.name=x", "kl=k3", "trainer=fsdp2"), QWEN_32B, on(8)).phases[
        "update"
    ]
    assert shared["gradients"] == lora["gradients"] / 8 and shared["weights"] == pytest.approx(lora["weights"] / 8)
    ppo = settings("policy=lora", "policy.name=x", "experiment=ppo", "trainer=fsdp2")
    assert assess(ppo, QWEN_32B, on(8)).phases["update"]["critic"] > 0.9 * shared["weights"]  # frozen weights, twice
    whole = update_of("kl=k3", "trainer=fsdp2", number=8)
    assert whole["reference copy"] == whole["weights"]


def test_adapters_save_the_gradients_of_all_other_weights():
    """Two passes of the linear layers instead of three; attention needs all three, but takes little time here."""
    full, lora = (
        assess(settings(*overrides, "policy.name=x", "max_prompt_tokens=8"), QWEN_32B, on(1)).work[-1]
        for overrides in (("policy=hub",), ("policy=lora",))
    )
    assert full.name == lora.name == "update" and lora.flops == pytest.approx(2 / 3 * full.flops, rel=0.01)
    assert lora.bytes < full.bytes


def test_the_table_of_three_sizes():
    lines = overview("h100-sxm", [1, 8]).splitlines()
    assert len(lines) == 2 + 3 * 3 and {line.split("|")[-4].strip() for line in lines[2:]} == {"yes", "no"}


def test_the_cluster_can_be_overridden():
    asked = {"accelerator": "h200", "num_accelerators": 64, "bf16_flops": 4e14, "usable_share": 0.8, "bandwidth": None}
    cluster = cluster_of(paper() | {"plan": asked})
    assert (cluster.num_accelerators, cluster.accelerator.bf16_flops) == (64, 4e14)
    assert cluster.usable_bytes == 0.8 * 141e9 and cluster.accelerator.bandwidth == 4.8e12
    assert cluster_of(paper("trainer=ddp_cpu")).num_accelerators == 2 and cluster_of(paper()).num_accelerators == 1
    assert on(8).exchange_bandwidth == 450e9 and on(16).exchange_bandwidth == 8 * 50e9


def test_unknown_names_and_invalid_numbers_are_refused():
    with pytest.raises(ValueError, match=r"plan\.accelerator=abacus: choose one of"):
        cluster_of(paper() | {"plan": {"accelerator": "abacus"}})
    assert known_config("gpt2") is None
    with pytest.raises(ValueError, match=r"plan\.acelerator: there is no such key"):
        cluster_of(paper() | {"plan": {"acelerator": "h200"}})
    with pytest.raises(ValueError, match="at least 1"):
        on(0)


def test_a_run_is_planned_from_its_command(monkeypatch, tmp_path, capsys):
    overrides = [
        "experiment=paper_32b",
        "mode=plan",
        "plan.num_accelerators=32",
        "trainer=fsdp2",
        "plan.mean_tokens=5000",
    ]
    monkeypatch.setattr("sys.argv", ["train.py", f"hydra.run.dir={tmp_path}", *overrides])
    main()
    assert "32.764 billion weights in 64 layers, sharded" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["train.py", f"hydra.run.dir={tmp_path}", "mode=plan", "plan.accelerator=laptop"])
    main()
    assert "It fits" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["train.py", f"hydra.run.dir={tmp_path}", "mode=plan", "+plan.speed=2"])
    with pytest.raises(SystemExit, match=r"error: plan\.speed: there is no such key"):
        main()
