"""README and the pages of the site: what they show exists, composes, and is what the code says."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from functools import cache
from itertools import chain
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from runs import ROOT

from dapo_lightning.algorithm import Algorithm
from dapo_lightning.algorithm.advantage import GroupNormalized
from dapo_lightning.algorithm.overlong import Punish
from dapo_lightning.run.options import RENAMED, groups
from dapo_lightning.run.refuse import check_overrides
from docs.figures import draw_figures
from docs.pages import DOCS, expanded, source_of, technique_pages
from docs.quotes import QUOTE
from docs.reference import GENERATED, api_pages, configuration_page, metrics

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)  # a block of code, in a list or not
NOTEBOOK = DOCS / "lab"  # dated records: their commands are those of their commits


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _nav(entry: object) -> Iterator[str]:
    """The pages of the navigation, however deep."""
    if isinstance(entry, str):
        yield entry
    for part in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
        yield from _nav(part)


def test_every_page_is_in_the_navigation_once():
    listed = [*_nav(tomllib.loads((DOCS / "zensical.toml").read_text())["project"]["nav"]), *technique_pages()]
    written = [str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")]
    assert sorted(set(listed)) == sorted({*written, *GENERATED})
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=_name)
def test_code_that_a_page_includes_exists(page):
    assert not re.search(r"^include: ", expanded(page, formulas=False), re.MULTILINE)


def test_code_quoted_in_readme_is_the_source():
    quotes = QUOTE.findall((ROOT / "README.md").read_text())
    assert quotes
    for path, name, quoted in quotes:
        assert quoted.rstrip() == source_of(ROOT / path, name)[0], f"{name} changed: run python -m docs.quotes"


def test_relative_links_outside_the_site_lead_somewhere():
    """The generator checks links between pages; README and CONTRIBUTING are not pages."""
    for page in PAGES[:2]:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
            path = page.parent / target if target else page
            assert path.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in _anchors(path), f"{page.name} links to {target}#{anchor}"


def _anchors(page: Path) -> set[str]:
    """The anchors of its headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_files_and_extras_that_pages_name_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for page in PAGES:
        text = page.read_text()
        for path in re.findall(r"`((?:dapo_lightning|conf|tests|benchmarks|docs)/[\w./-]+)`", text):
            assert (ROOT / path).exists(), f"{_name(page)} names {path}"
        for named in re.findall(r'"(?:\.|dapo-lightning)\[([\w,-]+)\]"', text):
            assert set(named.split(",")) <= set(extras), f"{_name(page)} names the extra {named}"


def test_the_page_on_installation_lists_every_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    listed = re.findall(
        r'^\| `pip install "\.\[([\w-]+)\]"` \|', (DOCS / "use/installation.md").read_text(), re.MULTILINE
    )
    assert sorted(listed) == sorted(set(extras) - {"dev"})


def test_metrics_that_pages_name_exist():
    known = {re.sub(r"<\w+>", "*", name) for name in metrics()}
    kinds = {name.partition("/")[0] for name in known}
    for page in (*(DOCS / "use").glob("*.md"), *(DOCS / "learn").rglob("*.md")):
        for name in re.findall(r"`([a-z_]+/[\w@<>/]+)`", page.read_text()):
            pattern = re.sub(r"<\w+>|(?<=@)\w+", "*", name)
            is_known = any(fnmatch(pattern, metric) or fnmatch(name, metric) for metric in known)
            assert is_known or name.partition("/")[0] not in kinds, f"{_name(page)} names the metric {name}"


def test_the_page_on_configuration_lists_every_group_option_and_recipe():
    """The options of techniques, of the optimizer and of loggers have pages of their own."""
    text = (DOCS / "use/configuration.md").read_text()
    rows = {group: line for line in text.splitlines() if line.startswith("| ")
            for group in re.findall(r"`(\w+)`", line.split("|")[1])}  # fmt: skip
    assert set(groups()) - {"experiment", "recipe"} <= set(rows)
    for group in ("policy", "data", "reward", "environment", "rollout", "trainer", "schedule"):
        options = {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}
        assert set(re.findall(r"`(\w+)`", rows[group].split("|")[2])) == options, group
    for path in (ROOT / "conf/recipe").glob("*.yaml"):
        assert f"`recipe={path.stem}`" in text


def test_readme_names_every_experiment():
    text = (ROOT / "README.md").read_text()
    for name in (path.stem for path in (ROOT / "conf/experiment").glob("*.yaml")):
        if f"experiment={name}" not in RENAMED and not re.match("ladder_|dapo_minus_", name):
            assert f"`{name}`" in text


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "use/configuration.md"], ids=_name)
def test_tables_of_techniques_name_every_group_and_options_that_exist(page):
    rows = dict(re.findall(r"^\| \[`(\w+)`\]\([^)]*\) \| ([^|]*) \|", page.read_text(), re.MULTILINE))
    assert set(rows) == set(Algorithm.__dataclass_fields__)
    for group, options in rows.items():
        named = re.findall(r"`(\w+)`", options)
        assert named[0] == groups()[group]
        assert set(named) <= {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}


@pytest.mark.parametrize("group", Algorithm.__dataclass_fields__)
def test_the_page_of_a_group_lists_its_options(group):
    text = (DOCS / f"learn/techniques/{group}.md").read_text()
    assert f"include: conf/{group}\n" in text


def test_the_example_of_the_step_is_worked_out_correctly():
    penalties = Punish(max_tokens=12, cache_tokens=4).penalty(torch.tensor([[6, 3, 9, 12]]))
    rewards_PG = torch.tensor([[1.0, -1.0, 1.0, -1.0]]) + penalties
    advantages = GroupNormalized()(rewards_PG, [])[0, :, 0].tolist()
    text = " ".join((DOCS / "learn/dapo-step.md").read_text().split())
    assert "the rewards are {:g}, {:g}, {:g} and {:g}".format(*rewards_PG[0].tolist()) in text
    assert "are about {:.2f}, {:.2f}, {:.2f} and {:.2f}".format(*advantages) in text


def test_figures_are_drawn_from_the_code(tmp_path):
    drawn = draw_figures(tmp_path)
    shown = {name for page in DOCS.rglob("*.md") for name in re.findall(r"assets/drawn/(\w+\.svg)", page.read_text())}
    assert {path.name for path in drawn} == shown


def test_the_reference_covers_every_option_and_every_room():
    reference = configuration_page()
    for path in (ROOT / "conf").glob("*/*.yaml"):
        assert f"### `{path.parent.name}={path.stem}`" in reference
    rooms = {path.parent.name for path in (ROOT / "dapo_lightning").glob("*/__init__.py")}
    assert {f"reference/api/{room}.md" for room in rooms} <= set(api_pages())


# Commands


def _code(page: Path) -> Iterator[str]:
    """Lines of shell blocks, continued lines joined, and inline code."""
    text = page.read_text()
    for language, block in FENCE.findall(text):
        if language in ("", "bash", "sh", "console"):
            yield from block.replace("\\\n", " ").splitlines()
    yield from (re.sub(r"\s+", " ", code) for code in re.findall(r"`([^`]+)`", FENCE.sub("", text)))


def _words(code: str) -> list[str]:
    try:
        return shlex.split(re.sub(r"<[^>]*>", "x", code), comments=True)  # <time>, <model>: anything
    except ValueError:
        return []


ALONE = re.compile(r"\+|hydra|(data|policy|experiment|recipe|mode|resume|checkpoint)[.=@]")


def _examples(page: Path) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """The overrides of each command, and those that the text mentions: as many at once as differ in their groups, also
    those of commands that only choose options of techniques.
    """
    alone: dict[tuple[str, ...], None] = {}
    batches: list[dict[str, tuple[str, ...]]] = []
    for words in map(_words, _code(page)):
        command = next((i for i, word in enumerate(words) if word in ("train.py", "dapo-lightning")), None)
        if any("..." in word for word in words):
            continue
        if command is not None:
            overrides = tuple(word for word in words[command + 1 :] if "=" in word)
            if any(map(ALONE.match, overrides)):
                alone[overrides] = None
            else:
                _add(batches, overrides)
        elif words and all(re.fullmatch(r"\+?[a-z][\w./]*=[^.=\s]\S*", word) for word in words):
            for word in words:
                _add(batches, [word])
    return list(alone), [tuple(chain.from_iterable(batch.values())) for batch in batches]


def _add(batches: list[dict[str, tuple[str, ...]]], overrides: Sequence[str]) -> None:
    """Puts overrides into the first batch that has no others of their groups."""
    own: dict[str, tuple[str, ...]] = {}
    for override in overrides:
        group = re.split(r"[.=]", override.lstrip("+"))[0]
        own[group] = (*own.get(group, ()), override)
    batch = next((batch for batch in batches if batch.items() <= (batch | own).items()), None)
    if batch is None:
        batches.append(own)
    else:
        batch.update(own)


@cache
def _options() -> dict[str, dict[str, object]]:
    files = (ROOT / "conf").glob("*/*.yaml")
    return {f"{path.parent.name}={path.stem}": OmegaConf.to_container(OmegaConf.load(path)) or {} for path in files}


def _owner(override: str) -> list[str]:
    """The option that has the key of an override, unless the key belongs to no option."""
    group, *path = override.lstrip("+").partition("=")[0].split(".")
    if (group, *path[:1]) == ("hydra", "launcher"):
        return ["hydra/launcher=slurm"]
    return [option for option in _options() if path and option.startswith(f"{group}=") and _has(option, path)][:1]


def _has(option: str, path: list[str]) -> bool:
    settings: object = _options()[option]
    for name in path:
        if not isinstance(settings, dict) or name not in settings:
            return False
        settings = settings[name]
    return True


@cache
def _compose(overrides: tuple[str, ...]) -> DictConfig:
    named = {override.partition("=")[0] for override in overrides}
    owners = [owner for override in overrides for owner in _owner(override) if owner.partition("=")[0] not in named]
    config = compose("config", overrides=[*owners, *overrides], return_hydra_config=True)
    if any(override.startswith("+") for override in overrides):
        check_overrides([*owners, *overrides], is_sweep=False)
    return config


def _jobs(overrides: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """One job for each value of the sweep; a value in quotes or brackets is one value.

    What only a sweeper reads is left out: its package need not be installed.
    """
    given = [override for override in overrides if not re.match(r"hydra[/.]sweeper|[\w.]+=\w+\(", override)]
    split = [(key, [value] if value[:1] in "'\"[{" else value.split(",")) for key, _, value in
             (override.partition("=") for override in given)]  # fmt: skip
    for i in range(max((len(values) for _, values in split), default=0)):
        yield tuple(f"{key}={values[i % len(values)]}" for key, values in split)


def _can_start(config: DictConfig) -> bool:
    """Whether a run has worked examples, if its policy has a warm start."""
    is_new_run = config.mode == "train" and not config.resume
    has_warm_start = is_new_run and config.policy.get("warm_start")
    return not has_warm_start or hasattr(get_class(config.data._target_), "worked_examples")


def test_commands_are_found_behind_other_blocks_and_in_lists(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```text\nx\n```\n```bash\ntrain.py a=2 \\\n  b=3\n```\n- x\n\n  ```bash\n  make x\n  ```\n`c=4`\n")
    assert [code.split() for code in _code(page)] == [["train.py", "a=2", "b=3"], ["make", "x"], ["c=4"]]


@pytest.mark.parametrize("page", [page for page in PAGES if not page.is_relative_to(NOTEBOOK)], ids=_name)
def test_commands_and_keys_of_a_page_compose(page, monkeypatch):
    for name in ("SLURM_NTASKS_PER_NODE", "SLURM_NNODES"):
        monkeypatch.setenv(name, "1")
    with initialize(version_base="1.3", config_path="../../conf"):
        commands, mentioned = _examples(page)
        for overrides in commands + mentioned:
            for job in _jobs(overrides):
                try:
                    config = _compose(job)
                except Exception as error:
                    pytest.fail(f"{_name(page)} shows {' '.join(job)}: {error}")
                if overrides in commands:
                    assert _can_start(config), (
                        f"{_name(page)} shows {' '.join(job)}: its data has no worked examples for policy=tiny"
                    )


def test_make_targets_of_all_pages_exist():
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for code in _code(page):
            named = re.match(r"make ([a-z][a-z0-9-]*)", code)
            assert named is None or named[1] in targets, f"{_name(page)}: make {named[1] if named else ''}"
