"""Names of the folders of a sweep's jobs, and the arguments that a sweep needs beyond those of the command line."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

EXCLUDED = "hydra.job.config.override_dirname.exclude_keys"
LONGEST = 190  # file systems allow 255 bytes


def folder_name(swept: str, overrides: Sequence[str], sweep: str) -> str:
    """Returns the name of a job's folder, such as `clip.upper-1.2+seed-0`, which needs no quotes anywhere.

    It names the swept overrides only. If others were given as well, or a character was replaced, a digest of all
    overrides follows. A job that another sweep into the same folder has begun keeps its folder.

    Args:
        swept: the swept overrides, as `hydra.job.override_dirname` joins them.
        overrides: all overrides of the job.
        sweep: folder of the sweep.
    """
    given: list[Any] = OmegaConf.to_container(overrides, resolve=False) if OmegaConf.is_list(overrides) else overrides  # type: ignore
    every = sorted(given)
    digest = hashlib.sha256("\n".join(every).encode()).hexdigest()[:8]
    complete, short = _plain("+".join(every)), _plain(swept)
    fits = 0 < len(complete) <= LONGEST
    is_complete = swept == "+".join(every).replace("=", "-") == complete and (fits or not complete)
    name = complete or "run" if is_complete else f"{short[:LONGEST] or 'run'}-{digest}"
    if (Path(sweep) / name).exists():
        return name
    others = sorted(path.name for path in Path(sweep).glob(f"*-{digest}"))
    return next(iter(others), complete if fits and (Path(sweep) / complete).is_dir() else name)


def fixed_keys(overrides: Sequence[Override]) -> str:
    """Returns an override of Hydra that keeps the keys that are not swept out of `hydra.job.override_dirname`."""
    keys = {one.key_or_group for one in overrides if not one.is_sweep_override()}
    return f"{EXCLUDED}=[{','.join(sorted(key for key in keys if not key.startswith('hydra')))}]"


def _plain(text: str) -> str:
    """Returns a text with only characters that neither a shell nor Hydra interprets."""
    return re.sub(r"[^\w.+-]", "_", text.replace("=", "-"), flags=re.ASCII)
