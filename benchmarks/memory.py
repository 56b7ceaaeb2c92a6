"""Peak memory of log-probs and their gradients, with whole logits and in chunks.

    python -m benchmarks.memory [number of tokens] [vocabulary]

Each way runs in a process of its own. What the process has taken before the pass is subtracted.
"""

import resource
import subprocess
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from dapo_lightning.forward.head import try_head
from dapo_lightning.forward.logprobs import completion_logps

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


def main(num_tokens: int = 32768, vocabulary: int = 50000) -> None:
    print(f"{num_tokens} tokens, a vocabulary of {vocabulary}: GB added by a forward and a backward pass")
    for way in ("whole", "chunks"):
        command = [sys.executable, "-m", "benchmarks.memory", way, str(num_tokens), str(vocabulary)]
        print(f"{way:>8}: {subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()}")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments and not arguments[0].isdigit():
        print(f"{measure(arguments[0], int(arguments[1]), int(arguments[2])):.2f}")
    else:
        main(*map(int, arguments))
