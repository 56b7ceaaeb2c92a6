"""A tiny random model of every causal-LM architecture of transformers, and what the kit makes of it.

`python tests/helpers/zoo.py` examines all of them and writes docs/use/architectures.md.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers
import torch
import transformers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from dapo_lightning.forward.layout import attention_of, is_switched
from dapo_lightning.forward.logprobs import completion_logps
from dapo_lightning.forward.ways import ways_of
from dapo_lightning.policy import Policy, PolicyError
from dapo_lightning.policy.hub import HubPolicy
from dapo_lightning.policy.lora import Lora
from dapo_lightning.policy.miniature import build, small_config
from dapo_lightning.rollout.decode import Decode
from dapo_lightning.rollout.noise import uniform_noise
from dapo_lightning.types import Completion, Generation

PAGE = Path(__file__).parents[2] / "docs/use/architectures.md"
PROMPTS = [(21, 35, 77, 35, 90, 14), (50, 51), (33,) * 11]
NUM_COMPLETIONS, NUM_TOKENS, END_TOKENS = 3, 24, (4, 5, 6, 7, 8)
TOKENS = [(17 * torch.arange(n) + 40) % 110 + 12 for n in (24, 3, 17, 1, 20, 9, 24, 12, 5)]
REACH = max(map(len, PROMPTS)) + NUM_TOKENS
OPTIONS = {  # without them, the default configuration cannot be built, or lacks what is special about the architecture
    "bamba": {"attn_layer_indices": [1]},
    "deepseek_v2": {"num_experts_per_tok": 6},
    "dots1": {
        "num_key_value_heads": 32, "n_routed_experts": 8, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
        "num_experts_per_tok": 2, "first_k_dense_replace": 1, "norm_topk_prob": True,
    },
    "granitemoehybrid": {"num_hidden_layers": 2, "layer_types": ["mamba", "attention"]},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128, "num_experts": 4},
    "lfm2": {"num_hidden_layers": 4, "layer_types": ["conv", "conv", "full_attention", "conv"]},
    "lfm2_moe": {"num_hidden_layers": 4, "layer_types": ["conv", "conv", "full_attention", "conv"]},
    "minimax_m3_vl_text": {"num_hidden_layers": 2, "layer_types": ["full_attention", "minimax_m3_sparse"]},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
    "phimoe": {"sliding_window": 2047},
    "qwen4_exp_text": {
        "indexer_n_heads": 32, "indexer_kv_heads": 1, "indexer_head_dim": 256, "indexer_budget": 64,
        "indexer_compress_ratio": 2,
    },
    "reformer": {"is_decoder": True},
    "xmod": {"default_language": "en_XX"},
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """What was found about one architecture.

    Attributes:
        prompts: "shared", "padded" or "equal lengths only".
        decoding: "cached" or "no cache".
        lora: "exact", or what is wrong with it.
        refused: the sentence with which the policy is refused, or that tells why no model could be built.
    """

    architecture: str
    model: str = ""
    attention: str = ""
    prompts: str = ""
    decoding: str = ""
    lora: str = ""
    refused: str = ""


def architectures() -> list[str]:
    """The text models among them; those that also take images or sound are built from their text models."""
    names = []
    for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        kind = CONFIG_MAPPING[name]
        if kind in MODEL_FOR_CAUSAL_LM_MAPPING and not kind.sub_configs:
            names.append(name)
    return names


def specimen(name: str, folder: Path, **options: object) -> None:
    """Saves a tiny model with limits far below `REACH`, and a tokenizer with a word for each token."""
    config = CONFIG_MAPPING[name](**{**OPTIONS.get(name, {}), **options})
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    kind = kind[0] if isinstance(kind, tuple) else kind
    model = build(kind, small_config(config, reach=None), None)
    model.save_pretrained(folder)
    words = tokenizers.models.WordLevel({str(token): token for token in range(128)}, unk_token="0")
    backend = tokenizers.Tokenizer(words)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="4", pad_token="0").save_pretrained(folder)


def examine(name: str, folder: Path, with_adapters: bool = True) -> Finding:
    """Loads a specimen as a policy, and compares it with plain forward passes of an independently loaded model.

    Raises:
        AssertionError: if the policy is accepted, and its log-probs are wrong.
    """
    source = HubPolicy(str(folder), chat=False)
    try:
        policy = source.load(source.codec(), None, folder, reach=REACH)
    except PolicyError as error:
        return Finding(name, refused=str(error).replace(str(folder), "..."))
    truth = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows, completions = sample(policy)
    sampled = pad_sequence([completion.logps_T for completion in completions], batch_first=True)
    expected = plain(truth, rows, [completion.tokens_T for completion in completions])
    close(sampled, expected, f"{name}: sampled log-probs")
    expected = plain(truth, rows, TOKENS)
    for size in (1, 2, len(rows)):
        close(update(policy, rows, TOKENS, size), expected, f"{name}: the update in micro-batches of {size}")
    ways, attention = ways_of(policy.model), attention_of(truth)
    return Finding(
        name,
        type(truth).__name__,
        attention,
        "shared" if is_switched(policy.model) else "padded" if ways.pads_prompts else TOGETHER,
        "cached" if ways.continues or is_switched(policy.model) else AGAIN,
        adapters(folder) if with_adapters else "",
    )


def adapters(folder: Path) -> str:
    """Whether adapters that were trained, merged and saved give a model with the log-probs of the trained one.

    Raises:
        AssertionError: if they are accepted, and it does not.
    """
    source = HubPolicy(str(folder), chat=False, lora=Lora(rank=2))
    try:
        policy = source.load(source.codec(), None, folder, reach=REACH)
    except PolicyError as error:
        return "refused by peft" if "PEFT" in str(error) else "not with `all-linear`"
    rows = [prompt for prompt in PROMPTS for _ in range(NUM_COMPLETIONS)]
    completion_logps(policy.model, rows[:1], TOKENS[:1], 1.0)[0].sum().backward()
    with torch.no_grad():
        for weight in policy.model.parameters():
            if weight.grad is not None:  # some layers use weights directly, and never run their adapters
                weight.add_(weight.grad / weight.grad.abs().max().clamp(min=1e-6), alpha=0.02)
    trained = update(policy, rows, TOKENS, 1)
    policy.save(folder / "merged")
    merged = AutoModelForCausalLM.from_pretrained(folder / "merged", dtype=torch.float32).eval()
    close(plain(merged, rows, TOKENS), trained, f"{folder.name}: merged adapters")
    return "exact"


def sample(policy: Policy) -> tuple[list[Sequence[int]], list[Completion]]:
    noise = uniform_noise(7, "zoo", range(len(PROMPTS)), NUM_COMPLETIONS, NUM_TOKENS)
    batches = Decode()(policy.model, PROMPTS, noise, Generation(NUM_TOKENS), END_TOKENS)
    completions = [completion for batch in batches for group in batch for completion in group]
    return [prompt for prompt in PROMPTS for _ in range(NUM_COMPLETIONS)], completions


@torch.no_grad()
def update(policy: Policy, rows: Sequence[Sequence[int]], tokens: Sequence[Tensor], size: int) -> Tensor:
    """Log-probs as the update computes them, in micro-batches of at most `size` rows that may run together."""
    together = ways_of(policy.model).pads_prompts
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    parts: list[list[int]] = []
    for row in order:
        fits = parts and len(parts[-1]) < size and (together or len(rows[parts[-1][0]]) == len(rows[row]))
        parts[-1].append(row) if fits else parts.append([row])
    found: dict[int, Tensor] = {}
    for part in parts:
        logps, _ = completion_logps(policy.model, [rows[r] for r in part], [tokens[r] for r in part], 1.0)
        found |= {row: logps_T[: len(tokens[row])] for row, logps_T in zip(part, logps, strict=True)}
    return pad_sequence([found[row] for row in range(len(rows))], batch_first=True)


@torch.no_grad()
def plain(model: torch.nn.Module, rows: Sequence[Sequence[int]], tokens: Sequence[Tensor]) -> Tensor:
    """Log-probs by one forward pass for each row, without cache, padding or positions of ours."""
    found = []
    for prompt, tokens_T in zip(rows, tokens, strict=True):
        row = torch.tensor([*prompt, *tokens_T.tolist()])
        logps = model(input_ids=row[None], use_cache=False).logits[0].float().log_softmax(dim=1)
        found.append(logps[len(prompt) - 1 : -1].gather(1, tokens_T[:, None])[:, 0])
    return pad_sequence(found, batch_first=True)


def close(found: Tensor, expected: Tensor, what: str) -> None:
    difference = float((found - expected).abs().max())
    assert difference < 2e-3, f"{what} are wrong by {difference:.2g}"


def finding(name: str, with_adapters: bool = True) -> Finding:
    """Builds and examines one architecture in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            specimen(name, Path(folder))
        except Exception as error:
            return Finding(name, refused=f"{NOT_BUILT}: {' '.join(str(error).split())[:120] or type(error).__name__}")
        return examine(name, Path(folder), with_adapters)


def row(one: Finding) -> str:
    """The line of the table."""
    what = [one.refused or one.prompts, *([] if one.refused else [one.decoding, one.attention, one.lora])]
    cells = [one.architecture, *what, *[""] * (4 - len(what))]
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def reasons(refused: Sequence[Finding]) -> dict[str, list[str]]:
    """The architectures for each reason, which is between "because" and the remedy in the message."""
    found: dict[str, list[str]] = {}
    for one in refused:
        why = one.refused.partition("exactly, because ")[2] or one.refused
        found.setdefault(why.partition(". ")[0].partition(" on rows")[0], []).append(f"`{one.architecture}`")
    return found


def page(found: Sequence[Finding]) -> str:
    """The page of the documentation."""
    refused = [one for one in found if one.refused and not one.refused.startswith(NOT_BUILT)]
    unknown = [one for one in found if one.refused.startswith(NOT_BUILT)]
    served = [one for one in found if not one.refused]
    counts = [
        (sum(one.prompts == "shared" for one in served), "exact with shared prompts"),
        (sum(one.prompts == "padded" for one in served), "exact with padded rows"),
        (sum(one.prompts == TOGETHER for one in served), "exact if only rows with equally long prompts run together"),
        (sum(one.decoding == AGAIN for one in served), "of these decode without a cache"),
        (len(refused), "refused with a message"),
        (len(unknown), "not tried, because no model can be built from the default configuration"),
    ]
    return HEAD.format(
        version=transformers.__version__,
        counts="\n".join(f"| {number} | {what} |" for number, what in counts),
        served="\n".join(map(row, served)),
        refused="\n".join(f"- {', '.join(names)}: {why}." for why, names in reasons(refused).items()),
        unknown=", ".join(f"`{one.architecture}`" for one in unknown),
    )


NOT_BUILT, TOGETHER, AGAIN = "not built", "equal lengths only", "no cache"
HEAD = """# Architectures

This page is generated with `python tests/helpers/zoo.py` from tiny random models of all text architectures that
`AutoModelForCausalLM` of transformers {version} has. Their limits (windows, chunks, top-k) are lowered to four tokens,
so that rows of 35 tokens exceed them. For each accepted model, these log-probs are compared with plain forward passes
over single rows:

- those that are recorded while sampling;
- those of the update, in micro-batches of one, two and nine rows;
- those of a model with adapters that have been trained, merged, saved and reloaded.

`make test-zoo` repeats the comparison.

| architectures | |
|---|---|
{counts}

- **prompts.** *shared*: a prompt is computed once for all completions of its group. *padded*: each completion computes
  the prompt, and rows are padded. *equal lengths only*: padding would change the log-probs of the model, so only rows
  with equally long prompts share a micro-batch, and prompts are decoded one at a time.
- **decoding.** *cached*: each step reads one token. *no cache*: the model has no cache, or continuing from its cache
  does not give the log-probs of a forward pass. Each step then reads all tokens again, which is slow.
- **attention.** The attention that `policy.attention=auto` chooses. It is `eager` for models for which transformers has
  no `sdpa`.
- **LoRA.** The result of `policy=lora` with its default, `all-linear`. If it is refused, list the layers in
  `policy.lora.target_modules`.

A model with *padded* rows in this table can still share prompts in runs whose rows do not exceed its limits, because
the [trial](policies.md#policyhub) takes the maximum length of the rows into account.

| architecture | prompts | decoding | attention | LoRA |
|---|---|---|---|---|
{served}

Architectures that are refused with rows of 35 tokens and limits of four tokens:

{refused}

Architectures that were not tried: {unknown}.
"""


def main(names: Sequence[str]) -> None:
    """Examines all architectures, or those named; all of them make the page."""
    found, start = [], time.monotonic()
    for name in names or architectures():
        begin = time.monotonic()
        try:
            found.append(finding(name))
            print(f"{time.monotonic() - begin:5.1f} s  {found[-1]}", flush=True)
        except Exception as error:
            print(f"{time.monotonic() - begin:5.1f} s  {name} IS WRONG: {type(error).__name__} {error}", flush=True)
    print(f"{time.monotonic() - start:.0f} s for {len(found)} architectures")
    if not names:
        PAGE.write_text(page(found))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    main(sys.argv[1:])
