"""Run by torchrun: ranks that hold shards of a policy share an engine.

Each prints a line of JSON with sizes in bytes: of the whole policy, of its shards, of its part of the engine's weights
and of the KV cache per token; by how much its memory grew, at most, while weights were transferred, and until they had
been checked; and the largest difference between the log-probs of the engine and of the policy.
"""

import json
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from transformers import LlamaConfig, LlamaForCausalLM

from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.distributed.sharding import local_part, reshard, shard
from dapo_lightning.forward.logprobs import completion_logps
from dapo_lightning.rollout.noise import uniform_noise
from dapo_lightning.rollout.vllm import Vllm
from dapo_lightning.types import Generation

CONFIG = LlamaConfig(
    vocab_size=4096, hidden_size=512, intermediate_size=1536, num_hidden_layers=12, num_attention_heads=8,
    num_key_value_heads=4, max_position_embeddings=256, initializer_range=0.1,
)  # fmt: skip
PROMPTS = [(10, 11, 12), (20, 21, 22), (30, 31, 32)]


CACHE_BYTES = 100_000_000


def memory(name):
    """What the kernel counts, in bytes."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return 1024 * int(line.split()[1])


def stored(model):
    """Bytes of the weights of vLLM's model as they were before it repacked them for the CPU."""
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    weights = [w for layer in model.modules() for w in get_layerwise_info(layer).restore_metadata[0].values()]
    return sum(weight.nbytes for weight in weights)


def main():
    dist.init_process_group("gloo")
    ranks = Ranks.current()
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG).eval()
    policy = sum(weight.nbytes for weight in model.parameters())
    shard(model, init_device_mesh("cpu", (ranks.size,)), None)
    rollout = Vllm(
        tensor_parallel_size=ranks.size, dtype="float32", enforce_eager=True, max_model_len=64,
        engine_args={"kv_cache_memory_bytes": CACHE_BYTES},
    )  # fmt: skip
    with rollout.ready(model):
        pass
    engine, check, peaks = rollout._engine, rollout._engine._check, []
    engine._check = lambda model: (peaks.append(memory("VmHWM")), check(model))
    Path("/proc/self/clear_refs").write_text("5")  # forgets the highest memory so far
    before = memory("VmRSS")
    with rollout.ready(model):
        peaks.append(memory("VmHWM"))
        mine = ranks.mine(PROMPTS)  # two on the first rank, one on the second
        noise_PGT = uniform_noise(0, "test", list(range(len(mine))), num_completions=2, num_tokens=20)
        (batch,) = rollout(model, mine, noise_PGT, Generation(20), [1])
        rollout.leave()
    rows = [(prompt, completion) for prompt, group in zip(mine, batch, strict=True) for completion in group]
    rows += rows[:1] * (4 - len(rows))  # forward passes of a sharded model are collectives
    with torch.no_grad():
        gap = max(
            float((completion_logps(model, [prompt], [c.tokens_T], 1.0)[0][0] - c.logps_T).abs().max())
            for prompt, c in rows
        )
    reshard(model)
    (served,) = engine.llm.apply_model(stored)
    cache = engine.llm.llm_engine.vllm_config.cache_config
    print(
        json.dumps(
            {
                "policy": policy,
                "shards": sum(local_part(weight).nbytes for weight in model.parameters()),
                "engine": served,
                "kv_per_token": CACHE_BYTES / cache.num_gpu_blocks / cache.block_size,
                "transfer": peaks[0] - before,
                "check": peaks[1] - before,
                "gap": gap,
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
