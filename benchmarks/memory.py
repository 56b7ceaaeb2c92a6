"""Peak memory of log-probs and their gradients.

    python -m benchmarks.memory [number of tokens] [vocabulary]    with whole logits and in chunks
    python -m benchmarks.memory row [number of tokens]             one long completion, with a mask and without

Each way runs in a process of its own. What the process has taken before the pass is subtracted.
"""

import resource
import subprocess
import sys
from functools import partial

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from dapo_lightning.forward import logprobs
from dapo_lightning.forward.head import try_head
from dapo_lightning.forward.logprobs import completion_logps
from dapo_lightning.forward.packed_layout import PackedLayout
from dapo_lightning.forward.probe import try_shared_prompts
from dapo_lightning.forward.rows import LONG

ROW = 512


def peak() -> float:
    """Largest resident size of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure(way: str, num_tokens: int, vocabulary: int) -> float:
    """GB that one forward and backward pass of `num_tokens` tokens in rows of 512 adds."""
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1
    )
    model = LlamaForCausalLM(config).eval()
    if way == "chunks":
        try_head(model)
    prompts = [(1, 2, 3)] * (num_tokens // ROW)
    before = peak()
    logps, entropies = completion_logps(model, prompts, [torch.arange(ROW)] * len(prompts), 0.9, with_entropies=True)
    (logps.sum() + entropies.detach().sum()).backward()
    return peak() - before


def measure_row(way: str, num_tokens: int) -> float:
    """GB that one forward and backward pass of a single completion adds, with a policy of 2 layers and 4 heads."""
    config = LlamaConfig(
        vocab_size=64, hidden_size=128, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=num_tokens + 100,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    try_shared_prompts(model)
    logprobs.PackedLayout = partial(PackedLayout, long=num_tokens + 1 if way == "mask" else LONG)  # type: ignore
    before = peak()
    completion_logps(model, [tuple(range(1, 60))], [torch.arange(num_tokens) % 60], 1.0)[0].sum().backward()
    return peak() - before


def of_row(num_tokens: int = 8192) -> None:
    print(f"one completion of {num_tokens} tokens: GB added by a forward and a backward pass")
    for way in ("mask", "no mask"):
        command = [sys.executable, "-m", "benchmarks.memory", way, str(num_tokens)]
        print(f"{way:>8}: {subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()}")


def main(num_tokens: int = 32768, vocabulary: int = 50000) -> None:
    print(f"{num_tokens} tokens, a vocabulary of {vocabulary}: GB added by a forward and a backward pass")
    for way in ("whole", "chunks"):
        command = [sys.executable, "-m", "benchmarks.memory", way, str(num_tokens), str(vocabulary)]
        print(f"{way:>8}: {subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()}")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[:1] == ["row"]:
        of_row(*map(int, arguments[1:]))
    elif arguments and not arguments[0].isdigit():
        way, *numbers = arguments[0], *map(int, arguments[1:])
        print(f"{measure_row(way, *numbers) if 'mask' in way else measure(way, *numbers):.2f}")
    else:
        main(*map(int, arguments))
