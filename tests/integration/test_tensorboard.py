"""What TensorBoard shows of real runs: a server reads their folders, and is asked what its pages ask."""

import html
import json
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pandas as pd
import pytest
import yaml
from runs import ROOT, resume, run, run_interrupted
from tensorboard.plugin_util import markdown_to_safe_html

from dapo_lightning.callbacks import dashboard
from dapo_lightning.callbacks.completions import COLUMNS
from dapo_lightning.callbacks.metrics_file import read_metrics
from dapo_lightning.callbacks.tensorboard import MAX_CHARACTERS, WIDTHS, as_html
from dapo_lightning.run.build import TECHNIQUES
from dapo_lightning.run.options import numbers_of_options

# A learning rate at which ratios leave the clip range: some tags are there only if tokens are clipped.
CLIPS = ("optimizer.lr=3e-2", "num_gradient_steps=4")
RUNS = {"straight", "resumed", "interrupted", "votes"}


class Server:
    """`tensorboard --logdir` on a free port."""

    def __init__(self, logdir: Path, log: Path):
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--port", "0"]
        with log.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file)
        deadline = time.time() + 120
        while not (found := re.search(r"http://\S+:\d+/", log.read_text())):
            assert self.process.poll() is None and time.time() < deadline, log.read_text()
            time.sleep(0.1)
        self.url = found[0] + "data/"

    def get(self, path, **query):
        with urlopen(f"{self.url}{path}?{urlencode(query)}", timeout=120) as answer:
            return json.load(answer)

    def post(self, path, **query):
        request = Request(self.url + path, json.dumps(query).encode(), {"Content-Type": "application/json"})
        with urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def steps(self, name, tag):
        return [step for _, step, _ in self.get("plugin/scalars/scalars", run=name, tag=tag)]

    def wait_for(self, steps):
        """Until every run is read up to its last scalar; the server reads them in the background."""
        deadline, name = time.time() + 120, "steps/dapo"
        while any(name not in self.get("plugin/scalars/tags").get(one, ()) or last not in self.steps(one, name)
                  for one, last in steps.items()):  # fmt: skip
            assert time.time() < deadline, self.get("plugin/scalars/tags")
            time.sleep(0.2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run; the same, interrupted in its third step; that one resumed; another whose reward reads final answers."""
    folder = tmp_path_factory.mktemp("outputs")
    run(folder / "straight", *CLIPS)
    run(folder / "votes", "experiment=grpo", "reward=exact", "reward.marker='a'", "num_steps=2", "optimizer.lr=1e-6")
    run_interrupted(folder / "resumed", *CLIPS)
    shutil.copytree(folder / "resumed", folder / "interrupted")
    resume(folder / "resumed")
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def server(folders, tmp_path_factory):
    server = Server(folders["straight"].parent, tmp_path_factory.mktemp("server") / "log")
    try:
        server.wait_for({
            f"{name}/tensorboard": read_metrics(path / "metrics.csv")[-1]["step"] for name, path in folders.items()
        })  # fmt: skip
        yield server
    finally:
        server.process.terminate()
        server.process.wait(timeout=30)


def sessions(server):
    """Rows of the HPARAMS tab by run: hyperparameters, metrics with the step they are of, status."""
    statuses = [f"STATUS_{status}" for status in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]
    groups = server.post("plugin/hparams/session_groups", experimentName="", allowedStatuses=statuses, colParams=[],
                         startIndex=0, sliceSize=100, includeMetrics=True)["sessionGroups"]  # fmt: skip
    assert all(len(group["sessions"]) == 1 for group in groups)
    assert len({group["name"] for group in groups}) == len(groups)
    return {
        group["name"].removesuffix("/tensorboard"): (
            group["hparams"],
            {metric["name"]["tag"]: (metric["trainingStep"], metric["value"]) for metric in group["metricValues"]},
            group["sessions"][0].get("status", "STATUS_UNKNOWN"),
        )
        for group in groups
    }


def test_every_run_is_one_run(server):
    assert set(server.get("runs")) == {f"{name}/tensorboard" for name in RUNS}


@pytest.mark.parametrize("name", sorted(RUNS))
def test_scalars_are_those_of_the_metrics_file(server, folders, name):
    rows, run_name = read_metrics(folders[name] / "metrics.csv"), f"{name}/tensorboard"
    assert [row["step"] for row in rows] == list(range(rows[-1]["step"] + 1))
    expected = {tag: [(row["step"], row[tag]) for row in rows if tag in row] for tag in set().union(*rows) - {"step"}}
    assert set(server.get("plugin/scalars/tags")[run_name]) == set(expected)
    for tag, points in expected.items():
        shown = server.get("plugin/scalars/scalars", run=run_name, tag=tag)
        assert [step for _, step, _ in shown] == [step for step, _ in points], tag
        assert [value for *_, value in shown] == pytest.approx([value for _, value in points], rel=1e-6), tag


def test_layout_shows_what_is_logged(server):
    layout = server.get("plugin/custom_scalars/layout")["category"]
    shown = {
        category["title"]: {chart["title"]: chart["multiline"]["tag"] for chart in category["chart"]}
        for category in layout
    }
    others = shown.pop("Other metrics")
    assert shown == {title: {chart: [tag] for chart, tag in charts.items()}
                     for title, charts in dashboard.FIGURES.items()}  # fmt: skip
    assert others["length/min"] == ["length/min$"] and "clip/upper_fraction" not in others

    logged = server.get("plugin/scalars/tags")

    def matched(name, tag):  # as TensorBoard does it
        return {one for one in logged[f"{name}/tensorboard"] if re.match(tag, one)}

    tags = {tag for charts in dashboard.FIGURES.values() for tag in charts.values()}
    without = {name: {tag for tag in tags if not matched(name, tag)} for name in ("straight", "resumed", "votes")}
    of_sets = r"validation/(?!turn_\d+/)[\w-]+/avg@\d+$"  # which these runs do not have
    assert without["straight"] == without["resumed"] == {of_sets, r"validation/maj@\d+$"}  # its reward reads no answers
    assert without["votes"] == {of_sets, r"clip/upper_probability$"}  # its learning rate is too small for that
    for tag, expected in ((r"validation/pass@\d+$", "validation/pass@2"), ("entropy$", "entropy")):
        drawn = server.get("plugin/custom_scalars/scalars", run="straight/tensorboard", tag=tag)
        assert drawn["regex_valid"] and set(drawn["tag_to_events"]) == matched("straight", tag) == {expected}
        assert drawn["tag_to_events"][expected]


def test_hyperparameters_beside_the_latest_held_out_metrics(server, folders):
    found = sessions(server)
    assert set(found) == RUNS
    for name, (values, metrics, status) in found.items():
        rows = read_metrics(folders[name] / "metrics.csv")
        last_evaluation = [row for row in rows if "validation/avg@2" in row][-1]
        assert (values["experiment"], values["clip"]) == (
            ("grpo", "symmetric") if name == "votes" else ("dapo", "higher")
        )
        assert values["clip.upper"] == (1.2 if name == "votes" else 1.28) and values["seed"] == 0
        assert values["temperature"] == 1.0 and values["trainer.precision"] == "32-true"
        assert "num_steps" not in values and "recipe" not in values
        assert metrics.pop("steps/dapo") == (rows[-1]["step"], rows[-1]["step"])
        expected = {f"validation/{one}" for one in ("avg@2", "pass@2", "entropy", "truncated", "length")}
        assert expected <= set(metrics) <= expected | {"validation/maj@2"}
        for tag, (step, value) in metrics.items():
            assert (step, value) == (last_evaluation["step"], pytest.approx(last_evaluation[tag], rel=1e-6)), tag
        if name == "interrupted":
            assert status == "STATUS_UNKNOWN" and last_evaluation["step"] == 2
        else:
            summary = json.loads((folders[name] / "summary.json").read_text())
            assert status == "STATUS_SUCCESS" and summary["dapo_steps"] == last_evaluation["step"]
            assert metrics["validation/avg@2"][1] == pytest.approx(summary["after"]["avg@2"], rel=1e-6)


def test_columns_of_every_option_whichever_run_names_them(server):
    columns = server.post("plugin/hparams/experiment", experimentName="", includeMetrics=True)
    names = [column["name"] for column in columns["hparamInfos"]]
    assert tuple(names[:5]) == dashboard.SHOWN
    assert {*numbers_of_options(), "clip", "overlong", "num_completions_per_prompt"} <= set(names)
    assert "hp_metric" not in json.dumps(columns)


def test_numbers_of_all_options_are_named():
    for group in TECHNIQUES:
        for file in (ROOT / "conf" / group).glob("*.yaml"):
            values = yaml.safe_load(file.read_text())
            numbers = {name for name, value in values.items() if type(value) in (int, float) or "${" in str(value)}
            assert {f"{group}.{name}" for name in numbers} <= set(numbers_of_options()), file


@pytest.mark.parametrize("name", ["straight", "resumed"])
def test_completions_to_read(server, folders, name):
    assert "completions/text_summary" in server.get("plugin/text/tags")[f"{name}/tensorboard"]
    shown = server.get("plugin/text/text", run=f"{name}/tensorboard", tag="completions/text_summary")
    assert [event["step"] for event in shown] == [1, 2, 4]
    for event in shown:
        rows = pd.read_parquet(folders[name] / f"rollouts/step_{event['step']:06d}.parquet").query("fate == 'trained'")
        first = rows[(rows.completion < 2) & rows.group.isin(sorted(rows.group.unique())[:2])]
        assert [cells[1] for cells in Cells.of(event["text"])] == first.sort_values(
            ["group", "completion"]
        ).text.tolist()


class Cells(HTMLParser):
    """The cells of the inner table, as a reader sees them."""

    def __init__(self):
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()

    @classmethod
    def of(cls, text):
        cells = cls()
        cells.feed(text)
        assert cells.tags <= {"table", "thead", "tbody", "tr", "th", "td", "pre"}
        return [row for row in cells.rows if len(row) == len(COLUMNS)]

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


HOSTILE = {
    "markdown": "a | b `c` **d** _e_ # f [g](h) \\| ![i](j)",
    "code fence": "```\nnot code\n```\n\n    indented\n~~~",
    "table": "|---|---|\n| t | u |\n",
    "html": "<script>alert(1)</script></pre></td></tr></table><img src=x onerror=alert(1)> &lt; &amp;",
    "comment": "<!-- a --> <![CDATA[ b ]]> <?php ?>",
    "special tokens": "<|im_start|>user\n<|im_end|>",
    "latex": "\\(\\frac{1}{2}\\) $x_1<y^2$ \\boxed{3}",
    "other scripts": "שלום 😀 数学",
    "empty": "",
    "blank lines": "\n\n\na\n\n\nb",
}


def row(completion):
    return ["1|2=", completion, "`3`", 1.0, 3, True]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_shown_as_it_is(name):
    text = HOSTILE[name]
    shown = Cells.of(markdown_to_safe_html(as_html(COLUMNS, [row(text), row("next")])))
    joined = [["".join(cell.split("\n")) for cell in cells] for cells in shown]
    squeezed = "".join(text.split("\n"))
    assert [cells[:1] + cells[2:] for cells in joined] == [["1|2=", "`3`", "+1.00", "3", "True"]] * 2
    assert joined[1][1] == "next"
    assert joined[0][1].replace(" ", "") == squeezed.replace(" ", "")  # a line may be broken at a space


def test_control_characters_do_no_harm():
    shown = Cells.of(markdown_to_safe_html(as_html(COLUMNS, [row("a\x00b\x02\x03\x1b[31mc\x0bd\u2028e")])))
    assert len(shown) == 1 and re.fullmatch(r"a.*b.*c.*d.*e", shown[0][1], re.DOTALL)


@pytest.mark.parametrize("text", ["word " * 5000, "x" * 9000, "line\n" * 3000], ids=["words", "one word", "lines"])
def test_long_text_is_cut_in_its_middle_and_broken_into_lines(text):
    table = as_html(COLUMNS, [row(f"begin {text} end")])
    lines = Cells.of(markdown_to_safe_html(table))[0][1].split("\n")
    assert lines[0].startswith("begin") and lines[-1].endswith("end")
    assert max(map(len, lines)) <= WIDTHS["completion"] and len(html.unescape(table)) < 5000
    (left_out,) = (
        int(found[1]) for line in lines if (found := re.fullmatch(r"\[\.\.\. (\d+) characters \.\.\.\]", line))
    )
    assert left_out == len(f"begin {text} end") - MAX_CHARACTERS
