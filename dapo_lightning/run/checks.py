"""Refuses combinations of settings that make no sense, before anything is loaded. Each option checks its own values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dapo_lightning.run.errors import ConfigError
from dapo_lightning.run.held_out_sets import NUMBERS, held_out_sets
from dapo_lightning.run.schema import Evaluation, check_finite, check_plain
from dapo_lightning.slurm import job as slurm
from dapo_lightning.utils.options import option_attribute

if TYPE_CHECKING:  # torch is imported once nothing is left to refuse
    from dapo_lightning.types import Generation

PRECISIONS = ("32-true", "bf16-mixed")


def check(config: Mapping[str, Any]) -> None:
    """Raises a ConfigError for plain keys or a trainer that make no sense. Expects a resolved configuration."""
    check_finite(config)
    check_plain(config)
    _check_batches(config)
    _check_evaluation(config["evaluation"], "evaluation")
    for name, settings in held_out_sets(config).items():
        path = f"evaluation.sets.{name}"
        check_plain(config["evaluation"] | {key: settings[key] for key in NUMBERS}, Evaluation, f"{path}.")
        _check_evaluation(settings, path)
        if settings["every"] % (every := config["evaluation"]["every"]):
            raise ConfigError(f"{path}.every={settings['every']}: must be a multiple of evaluation.every={every}.")
    _check_trainer(config["trainer"])


def _check_evaluation(settings: Mapping[str, Any], path: str) -> None:
    if settings["temperature"] == 0 and (number := settings["num_completions"]) > 1:
        raise ConfigError(
            f"{path}.temperature=0: the {number} completions of a prompt would all be the same. Add "
            f"{path}.num_completions=1."
        )


def check_options(config: Mapping[str, Any]) -> None:
    """Raises a ConfigError for options that make no sense together. Imports their classes, so their targets must have
    been checked."""
    _check_critic(config)
    number, needed = config["num_completions_per_prompt"], option_attribute(config["advantage"], "min_completions", 0)
    if number < needed:
        raise ConfigError(
            f"num_completions_per_prompt={number}: this advantage compares each completion with the spread of the "
            f"others, so a group needs at least {needed}."
        )
    exports = (config["callbacks"].get("checkpoint") or {}).get("export")
    if exports == "best" and option_attribute(config["trainer"]["strategy"], "shards_weights"):
        raise ConfigError(
            "callbacks.checkpoint.export=best: with trainer=fsdp2, only the newest policy is exported. Leave it out; "
            "callbacks.checkpoint.best keeps the best checkpoint."
        )
    if number < 2 and option_attribute(config["sampling"], "filters_groups"):
        raise ConfigError(
            "num_completions_per_prompt=1 with sampling=dynamic: a group of one is never partly correct, so no group "
            "would be kept. Use sampling=static."
        )


def _check_critic(config: Mapping[str, Any]) -> None:
    """Module, critic and advantage must all belong to PPO, or none of them."""
    parts = {"module": "trains_critic", "critic": "gives_values", "advantage": "needs_values"}
    chosen = {group for group, attribute in parts.items() if option_attribute(config[group], attribute)}
    if chosen and (missing := parts.keys() - chosen):
        remedies = {"module": "module=ppo", "critic": "critic=value_model", "advantage": "advantage=gae"}
        given = next(group for group in parts if group in chosen)
        other = " ".join(remedies[group] for group in parts if group in missing)
        raise ConfigError(
            f"{remedies[given]} needs {other}: PPO needs all three (module=ppo trains the critic, "
            f"critic=value_model gives values, advantage=gae uses them). Add {other}, or use experiment=ppo."
        )
    if config["kl"].get("place") == "reward" and not chosen:
        raise ConfigError(
            "kl.place=reward subtracts the penalty from the rewards of single tokens, which only advantage=gae reads: "
            "use experiment=ppo, or kl=k2 or kl=k3 with kl.place=loss."
        )
    if (steps := config["critic"].get("pretraining_steps", 0)) >= config["num_steps"]:
        raise ConfigError(
            f"critic.pretraining_steps={steps} with num_steps={config['num_steps']}: the policy would never be "
            "trained. Use fewer steps for pretraining, or a larger num_steps."
        )


def check_logps(
    generation: Generation, are_old_logps: bool, rollout_is_exact: bool, reweighting: Sequence[str]
) -> None:
    """Raises a ConfigError if the log-probs that the rollout records do not suit the options or the sampling.

    Args:
        are_old_logps: whether they serve as old log-probs, which depends on precision, weights and rollout.
        reweighting: groups whose options weight tokens by the difference between recorded and old log-probs.
    """
    if are_old_logps and reweighting:
        raise ConfigError(
            f"{reweighting[0]} has nothing to correct with trainer.precision=32-true, float32 weights and this "
            "rollout: the log-probs recorded while sampling are the old log-probs, so every weight is 1. Leave it out; "
            "it is meant for rollout.dtype=bfloat16, policy.dtype=bfloat16, trainer.precision=bf16-mixed or "
            "rollout=vllm, where the two differ."
        )
    if generation.is_restricted and not rollout_is_exact:
        raise ConfigError(
            f"top_p={generation.top_p}, top_k={generation.top_k}, min_p={generation.min_p}: this rollout records "
            "log-probs after it has excluded tokens, so they are not those of the trained policy. Use top_p=1.0, "
            "top_k=null and min_p=0.0 (evaluation.top_p, evaluation.top_k and evaluation.min_p are free), or "
            "rollout=decode."
        )


def check_partial(config: Mapping[str, Any], num_turns: int) -> None:
    """Raises a ConfigError if partial rollouts have no meaning, or are not supported."""
    if (partial := config["sampling"].get("partial")) is None:
        return
    if partial >= config["max_new_tokens"]:
        raise ConfigError(
            f"sampling.partial={partial}: a completion ends after max_new_tokens={config['max_new_tokens']} tokens in "
            "any case. Use a smaller number, or null for no partial rollouts."
        )
    if num_turns > 1:
        raise ConfigError(
            f"sampling.partial={partial}: conversations cannot be interrupted. Use environment=single_turn, or "
            "sampling.partial=null."
        )
    if config["stop"]:
        raise ConfigError(
            f"sampling.partial={partial}: a stop text that begins before an interruption and ends after it would be "
            "overlooked. Use stop=[], or sampling.partial=null."
        )


def check_engines(ranks_per_engine: int, ranks_per_node: int) -> None:
    """Raises a ConfigError if the ranks of a node cannot share engines."""
    if ranks_per_node % ranks_per_engine:
        raise ConfigError(
            f"rollout.tensor_parallel_size={ranks_per_engine}: it must divide the number of processes on each node, "
            f"which is {ranks_per_node} (trainer.devices)."
        )


def _check_batches(config: Mapping[str, Any]) -> None:
    compares = config["num_completions_per_prompt"] < 2 and not option_attribute(config["advantage"], "needs_values")
    if compares:
        raise ConfigError(
            f"num_completions_per_prompt={config['num_completions_per_prompt']}: the advantage compares completions "
            "of one prompt with each other, so a group needs at least two (the paper: 16)."
        )
    prompts, steps = config["num_prompts_per_step"], config["num_gradient_steps"]
    devices, nodes = config["trainer"]["devices"], config["trainer"]["num_nodes"]
    ranks = devices * nodes if isinstance(devices, int) and devices > 0 else 1  # "auto" and -1: Lightning counts them
    if prompts % steps:
        raise ConfigError(
            f"num_prompts_per_step={prompts} cannot be divided into num_gradient_steps={steps} equal mini-batches of "
            f"whole groups: make num_prompts_per_step a multiple of num_gradient_steps ({steps})."
        )
    completions = prompts // steps * config["num_completions_per_prompt"]
    if completions % ranks:
        raise ConfigError(
            f"trainer: a mini-batch holds {completions} completions (num_prompts_per_step={prompts} / "
            f"num_gradient_steps={steps} x num_completions_per_prompt={config['num_completions_per_prompt']}), which "
            f"cannot be divided equally among {ranks} processes: use a number of processes that divides it."
        )


def _check_trainer(trainer: Mapping[str, Any]) -> None:
    if str(trainer["strategy"]).startswith("fsdp"):
        raise ConfigError(
            f"trainer.strategy={trainer['strategy']}: FSDP1 does not support the manual clipping and accumulation of "
            "gradients in the DAPO step. Use trainer=fsdp2, or a DDP strategy."
        )
    if trainer.get("offload_optimizer") and trainer.get("accelerator") == "cpu":
        raise ConfigError(
            "trainer.offload_optimizer=true: with trainer.accelerator=cpu, all memory is host memory. Leave it out."
        )
    if trainer["precision"] not in PRECISIONS:
        raise ConfigError(
            f"trainer.precision={trainer['precision']}: choose {' or '.join(PRECISIONS)}, which keeps float32 weights "
            "and computes in bf16. (In half precision, weights lose most updates to rounding, and with 16-mixed, loss "
            "scaling hides the gradient norms.)"
        )
    if slurm.in_job():
        check_tasks(trainer, *slurm.tasks())


def check_tasks(trainer: Mapping[str, Any], tasks_per_node: int, num_nodes: int) -> None:
    """Raises a ConfigError if SLURM starts another number of processes than Lightning expects."""
    devices = trainer["devices"]
    if not isinstance(devices, int) or devices < 0:  # Lightning compares them itself
        devices = tasks_per_node
    if (devices, trainer["num_nodes"]) != (tasks_per_node, num_nodes):
        raise ConfigError(
            f"SLURM starts {tasks_per_node} task{'s' * (tasks_per_node != 1)} on each of {num_nodes} "
            f"node{'s' * (num_nodes != 1)}, but trainer.devices={devices} and trainer.num_nodes="
            f"{trainer['num_nodes']}: each task is one process of Lightning, so the numbers must agree. Use "
            "trainer=slurm or slurm_fsdp2, which take them from SLURM, or change hydra.launcher.tasks_per_node "
            "and nodes."
        )
