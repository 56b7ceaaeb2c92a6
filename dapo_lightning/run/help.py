"""Writes the text of --help: how to use the command, and all groups, options and keys of conf/."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from dapo_lightning.run.options import CONF, groups, in_list, options

EXAMPLES = """\
dapo-lightning trains a language model with DAPO (arXiv 2503.14476). Each technique can be switched separately.

  python train.py                                       the default: all four techniques, a tiny policy, two CPU cores
  python train.py recipe=debug                          the same in a few seconds, to check that everything works
  python train.py experiment=grpo                       the paper's naive baseline: the same code without the techniques
  python train.py loss=token_level clip.upper=1.28      any option of a group, and any value in a group
  python train.py -m clip.upper=1.2,1.28 seed=0,1,2 hydra/launcher=cores hydra.sweep.dir=outputs/clip
                                                        a sweep over all combinations; repeat it to continue it
  python train.py -m hydra/sweeper=search 'clip.upper=interval(1.05,2.0)'
                                                        a search for the best held-out avg@k with Optuna
  python -m dapo_lightning.study outputs/clip           the table and the figures of a sweep
  dapo-lightning report outputs/dapo/<time>             a page to look at: curves, steps, completions; also of sweeps
  python train.py resume=outputs/dapo/<time>            continues a run, also with num_steps= or trainer=;
                                                        with changes=true, also with other values, e.g. optimizer.lr=
  python train.py mode=evaluate checkpoint=<folder>     evaluates a run, or one of its .ckpt files
  dapo-lightning doctor <overrides of a run>            examines its data and reward, and samples the untrained policy
  python train.py mode=plan recipe=paper_32b            calculates the memory and the time that a run would need
  python train.py policy=hub policy.name=<id> reward=math data=jsonl data.train_path=<file> data.validation_path=<file>
                                                        trains your own model on your own data

`dapo-lightning` is the same command and works from any directory. `--help clip` shows the files of one group;
`--cfg job` shows the configuration of a command without running it."""
RESULTS = """\
Results are written to outputs/<experiment>/<time>/, or to run_folder=<folder>: report.html, summary.json, curves.png,
metrics.csv, tensorboard/, rollouts/, evaluation.jsonl, checkpoints/, and the trained policy in policy/."""
WIDTH = 120


def help_text(names: Sequence[str] = ()) -> str:
    """Returns the help on the named groups, with the text of their files, or the whole help if no group is named."""
    chosen = [name for name in names if name in groups()]
    if chosen:
        return "\n\n".join(f"{_group(name)}\n\n{_files(name)}" for name in chosen)
    parts = [EXAMPLES, "Groups, as group=option (* marks the default):", *map(_group, groups()), _keys(), RESULTS]
    return "\n\n".join(parts)


def _group(group: str) -> str:
    lines = [f"  {group}{_comment_of(group)}"]
    for name, comment in options(group).items():
        mark = "*" if name in in_list(groups()[group]) else " "
        lines += textwrap.wrap(comment, WIDTH, initial_indent=f"   {mark} {name:<28} ", subsequent_indent=" " * 34) or [
            f"   {mark} {name}"
        ]
    return "\n".join(lines)


def _comment_of(group: str) -> str:
    """Returns the comment on a group in conf/config.yaml."""
    found = re.search(rf"^  - {group}: \S+ +# *(.*)$", _config(), re.MULTILINE)
    return f": {found[1]}" if found else ""


def _files(group: str) -> str:
    paths = [CONF / group / f"{name}.yaml" for name in options(group)]
    return "\n\n".join(f"--- conf/{group}/{path.name}\n{path.read_text(encoding='utf-8').strip()}" for path in paths)


def _keys() -> str:
    """Returns the plain keys with their comments, as in conf/config.yaml."""
    plain = _config().partition("- _self_")[2].partition("\n\n")[2].partition("\nhydra:")[0]
    return "Plain keys, as key=value (nested keys as evaluation.every=5):\n\n" + textwrap.indent(plain.strip(), "  ")


def _config() -> str:
    return (CONF / "config.yaml").read_text(encoding="utf-8")
