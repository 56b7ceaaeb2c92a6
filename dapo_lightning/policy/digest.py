"""A digest of what a policy was loaded from, so that a resumed run notices when its model or tokenizer has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dapo_lightning.policy import Policy, PolicyError

Digest = dict[str, str]
"""A hash of the tokenizer, the chat template, the configuration of the model, and the weights."""

SAMPLED = 64  # values of each tensor; training a model changes nearly all of its values
_OF_THE_MACHINE = ("_name_or_path", "transformers_version", "dtype")


def digest_of(policy: Policy, has_reference: bool) -> Digest:
    """Hashes a policy that has just been loaded. Call it before the weights are sharded.

    Only weights that a checkpoint does not restore are hashed: frozen ones, and, if the run keeps a reference, those
    that the reference copies. Weights that are read only into shards are not hashed.
    """
    tokenizer, weights = policy.codec.tokenizer, dict(policy.model.named_parameters())
    frozen = {name: weight for name, weight in weights.items() if not weight.requires_grad}
    config = {k: v for k, v in policy.model.config.to_diff_dict().items() if k not in _OF_THE_MACHINE}
    found = {
        "tokenizer": _hash(_tokenizer(tokenizer), policy.codec.end_tokens),
        "chat template": _hash(tokenizer.chat_template),
        "configuration": _hash(config),
    }
    if policy.model.device.type != "meta":
        found["weights"] = _hash(*_sample(frozen or (weights if has_reference else {})))
    return found


def check_same(before: Mapping[str, str], now: Digest) -> None:
    """Compares the policy of a resumed run with the one with which it began.

    Raises:
        PolicyError: naming what has changed, and the remedy.
    """
    changed = [part for part in now if part in before and before[part] != now[part]]
    if changed:
        raise PolicyError(
            f"resume: the {' and the '.join(changed)} of the policy have changed since this run was saved. Restore the "
            "original policy (for one from the hub, policy.revision=<commit> keeps it as it is), or start a new run."
        )


def _tokenizer(tokenizer: Any) -> Any:
    if not tokenizer.is_fast:
        return [sorted(tokenizer.get_vocab().items()), str(tokenizer.special_tokens_map)]
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    return [{k: v for k, v in content.items() if k not in ("padding", "truncation")}, str(tokenizer.special_tokens_map)]


def _sample(weights: Mapping[str, nn.Parameter]) -> list[Any]:
    def values(weight: Tensor) -> list[float]:
        return weight.reshape(-1)[:: max(1, weight.numel() // SAMPLED)].float().tolist()

    return [[name, list(weight.shape), values(weight.detach())] for name, weight in sorted(weights.items())]


def _hash(*content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
