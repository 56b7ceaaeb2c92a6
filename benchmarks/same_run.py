"""Compares a run with a recorded one: what a change of the code that must not change results is checked with.

    OMP_NUM_THREADS=1 python train.py seed=0 hydra.run.dir=outputs/same_run
    python -m benchmarks.same_run outputs/same_run                      # with tests/data/recorded_run.csv
    python -m benchmarks.same_run outputs/same_run outputs/another      # with another run: the weights, too

The recorded metrics come from one machine. Another processor or another build of torch rounds differently, and the runs
drift apart within some steps: record a run of the old code there, and compare with that.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import pandas as pd  # type: ignore[import-untyped]
from safetensors.torch import load_file

RECORDED = Path(__file__).parent.parent / "tests/data/recorded_run.csv"
COSTS = re.compile("^(seconds|tokens_per_second|memory)/")  # what may differ from run to run


def metrics(path: Path) -> pd.DataFrame:
    """The metrics of a run folder or a CSV file by step, without costs."""
    table = pd.read_csv(path / "metrics.csv" if path.is_dir() else path, index_col="step")
    return table[[name for name in table if not COSTS.match(name)]]


def differences(one: pd.DataFrame, other: pd.DataFrame) -> list[str]:
    """A sentence for each metric that differs, naming the first step and both values. A new metric is no difference."""
    found = [f"{name}: only the recorded run has it" for name in sorted({*other} - {*one})]
    steps = one.index.union(other.index)
    one, other = one.reindex(steps), other.reindex(steps)
    for name in sorted({*one} & {*other}):
        differs = (one[name] != other[name]) & ~(one[name].isna() & other[name].isna())
        if differs.any():
            step = differs.idxmax()
            found.append(f"{name}: step {step}: {one[name][step]} and {other[name][step]}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("recorded", type=Path, nargs="?", default=RECORDED, help="another, or a CSV file")
    arguments = parser.parse_args()
    found = differences(metrics(arguments.run), metrics(arguments.recorded))
    if arguments.recorded.is_dir():
        ours, theirs = (load_file(folder / "policy/model.safetensors") for folder in vars(arguments).values())
        differ = [name for name in ours.keys() | theirs.keys() if not ours[name].equal(theirs[name])]
        found += [f"{len(differ)} of {len(ours)} weights differ, {min(differ)} among them"] if differ else []
    print("\n".join(found) or "the runs are the same, bit for bit")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
