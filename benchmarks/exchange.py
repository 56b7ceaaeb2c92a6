"""Bytes that a rank receives from the others when the kept groups of a DAPO step are exchanged.

    python -m benchmarks.exchange [--prompts 64] [--completions 16] [--tokens 500] [--ranks 4] [--gradient-steps 4]

Ranks are processes (gloo) with groups of random tokens. Payloads are counted where they are handed to
torch.distributed. "pickles" is the size of whole groups sent to everybody, which is computed, but not sent.
"""

from __future__ import annotations

import argparse
import pickle
import random
import socket
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from dapo_lightning.algorithm import Algorithm
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.draws.ahead import KeepRate
from dapo_lightning.draws.exchange import announced
from dapo_lightning.draws.fill import Batch
from dapo_lightning.draws.record import GroupRecord
from dapo_lightning.draws.stream import PromptStream
from dapo_lightning.step import shares
from dapo_lightning.types import Completion, Grade, Group, Prompt, Trajectory


@dataclass(frozen=True)
class Counted(Ranks):
    """Counts the bytes that come from other ranks."""

    objects: list[int] = field(default_factory=list)
    tensors: list[int] = field(default_factory=list)

    def gather(self, items: Any) -> list[Any]:
        sizes = super().gather([len(pickle.dumps(list(items)))])
        self.objects.append(sum(sizes) - sizes[self.rank])
        return super().gather(items)

    def swap(self, sent: Any, lengths: Any) -> Any:
        received = super().swap(sent, lengths)
        self.tensors.append(sum(tensor.nbytes for by, tensor in enumerate(received) if by != self.rank))
        return received


def random_group(number: int, num_completions: int, mean_tokens: int) -> Group:
    draw = random.Random(number)
    completions = []
    for _ in range(num_completions):
        length = draw.randint(mean_tokens // 2, 3 * mean_tokens // 2)
        tokens_T, logps_T = torch.randint(0, 150_000, (length,)), -torch.rand(length)
        completions.append(Completion(tokens_T, logps_T, torch.rand(length), truncated=False))
    return Group(
        number=number,
        prompt=Prompt("q" * 800, "42", f"bench:{number}"),
        prompt_tokens=tuple(range(1000, 1200)),
        trajectories=tuple(Trajectory.of(completion, 0) for completion in completions),
        texts=tuple("text" * len(completion.tokens_T) for completion in completions),
        grades=tuple(Grade((-1.0) ** i, i % 2 == 0, answer=str(draw.randint(0, 999))) for i in range(num_completions)),
    )


def measure(rank: int, size: int, port: int, options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    ranks, numbers = Counted(rank, size), range(options.prompts)
    mine = [random_group(number, options.completions, options.tokens) for number in ranks.mine(numbers)]
    sizes = Ranks(rank, size).gather([sum(len(pickle.dumps(group)) for group in mine)])
    stream = PromptStream([Prompt("q", "a", "bench")], seed=0)
    new = announced(mine, stream, ranks)
    homes, groups = zip(*(new[number] for number in numbers), strict=True)
    records = tuple(map(GroupRecord.of, mine))
    batch = Batch(groups, 0, (), {}, records, options.prompts, 1, KeepRate(), None, homes)
    shares.exchange(batch, Algorithm.dapo(2 * options.tokens, options.tokens), options.gradient_steps, 1, ranks)
    if rank == 0:
        before, tensors, objects = (f"{n / 1e6:.3f}" for n in (sum(sizes[1:]), sum(ranks.tensors), sum(ranks.objects)))
        print(f"MB received by the first rank: {before} as pickles; now {tensors} in tensors, {objects} in statistics")
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"prompts": 64, "completions": 16, "tokens": 500, "ranks": 4, "gradient-steps": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    mp.spawn(measure, (options.ranks, port, options), nprocs=options.ranks)


if __name__ == "__main__":
    main()
