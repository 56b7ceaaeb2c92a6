"""`dapo-lightning doctor`: examines what a run would be made of."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dapo_lightning.algorithm import Algorithm
from dapo_lightning.doctor import Diagnosis, HeldOutSet, Patient, References, examine
from dapo_lightning.doctor.page import write_page
from dapo_lightning.doctor.text import as_text
from dapo_lightning.plan import known_config
from dapo_lightning.rollout.stop import StopTexts
from dapo_lightning.run.build import TECHNIQUES, evaluations_of, length_limit
from dapo_lightning.run.checks import check, check_options
from dapo_lightning.run.command import as_dict, given_overrides
from dapo_lightning.run.held_out_sets import held_out_sets
from dapo_lightning.run.objects import made
from dapo_lightning.run.targets import check_targets
from dapo_lightning.types import Generation
from dapo_lightning.utils.atomic import replacing
from dapo_lightning.utils.overrides import override_key


def visit(config: DictConfig) -> int:
    """Examines, prints the page of text, writes doctor.html and doctor.json to the run folder, and returns the number
    of findings."""
    folder, diagnosis = Path(config.run_folder), examine(patient(config))
    folder.mkdir(parents=True, exist_ok=True)
    overrides = [o for o in given_overrides() if override_key(o) not in ("mode", "run_folder")]
    command = shlex.join(["dapo-lightning", "doctor", *overrides])
    write_page(diagnosis, command, folder / "doctor.html")
    with replacing(folder / "doctor.json") as partial:
        partial.write_text(json.dumps(_plain(diagnosis), indent=2) + "\n", encoding="utf-8")
    print(as_text(diagnosis, str(folder / "doctor.html")))
    return len(diagnosis.findings)


def patient(config: DictConfig) -> Patient:
    """Makes the parts of a run.

    Raises:
        ValueError: as the run would.
    """
    settings = as_dict(config)
    check(settings)
    check_targets(settings)
    check_options(settings)
    dataset, source, environment = (made(settings[name]) for name in ("data", "policy", "environment"))
    codec = source.codec()
    environment.start(codec)
    stop = StopTexts(codec.tokenizer, config.stop) if config.stop else None
    reward, sets = made(_skipping(settings["reward"])), held_out_sets(settings)
    generation = Generation(config.max_new_tokens, config.temperature, config.top_p, config.top_k, config.min_p, stop)
    generations = (generation, *evaluations_of(settings, sets).values())
    return Patient(
        settings=settings,
        dataset=dataset,
        codec=codec,
        limit=length_limit(settings, codec, environment, generations),
        environment=environment,
        reward=reward,
        algorithm=Algorithm(**{name: made(settings[name]) for name in TECHNIQUES}),
        rollout=made(settings["rollout"]),
        generation=generation,
        load=lambda reach: source.load(codec, dataset, Path("outputs/warm_start"), reach=reach),
        model=known_config(getattr(source, "name", "")) or source.config(),
        sets={
            name: HeldOutSet(
                dataset if one["data"] is settings["data"] else made(one["data"]),
                reward if one["reward"] is settings["reward"] else made(_skipping(one["reward"])),
                one["num_prompts"],
            )
            for name, one in sets.items()
        },
    )


def _skipping(settings: Any) -> Any:
    """The settings of a reward, whose unreadable references are left out instead of being an error."""
    if not isinstance(settings, Mapping):
        return settings
    return {key: "skip" if key == "unreadable" else _skipping(value) for key, value in settings.items()}


def _plain(diagnosis: Diagnosis) -> dict[str, object]:
    return {
        "num_prompts": dict(diagnosis.num_prompts),
        "lengths": dict(diagnosis.lengths),
        "findings": [asdict(finding) for finding in diagnosis.findings],
        "references": _counts(diagnosis.references),
        "references_of_sets": {name: _counts(one) for name, one in diagnosis.references_of_sets.items()},
        "sample": diagnosis.sample and asdict(diagnosis.sample),
        "forecast": diagnosis.forecast and asdict(diagnosis.forecast),
        "near_misses": [asdict(miss) for miss in diagnosis.near_misses],
    }


def _counts(references: References) -> dict[str, object]:
    return {"num_graded": references.num_graded, "num_right": references.num_right, "stages": references.stages}
