"""Real data: columns, files, hub datasets in their own schemas (written here, small), and overlap between splits."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, Value
from hydra.utils import instantiate
from runs import config

from dapo_lightning.data import DataError
from dapo_lightning.data.columns import Columns
from dapo_lightning.data.files import Files
from dapo_lightning.data.hub import Hub
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.draws.datamodule import PromptDataModule
from dapo_lightning.draws.length import LengthLimit


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """What the library prepares stays out of the user's cache."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


GOOD = {"prompt": "q", "answer": "1"}


def user(content):
    return {"role": "user", "content": content}


def write(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), "utf-8")
    return str(path)


def parquet(path, rows):
    path.parent.mkdir(exist_ok=True)
    Dataset.from_list(rows).to_parquet(path)
    return str(path)


def dapo_math(number, index):
    """A row of DAPO-Math-17k or AIME-2024."""
    return {
        "data_source": "math_dapo",
        "prompt": [{"content": f"What is {number} + 1?", "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": str(number + 1), "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": str(index)},
    }


def gsm8k(number):
    solution = f"Adding #1 to {number} gives <<{number}+1={number + 1}>>.\n#### 1,00{number + 1}"
    return {"question": f"What is 100{number} + 1?", "answer": solution}


def serve(data, num_held_out, **options):
    """The data module, for prompts of any length."""
    limit = LengthLimit(max_prompt_tokens=None, max_new_tokens=1, max_positions=None)
    return PromptDataModule(data, lambda prompt: prompt.text, limit, 1, 1, num_held_out, seed=0, **options)


def test_ranks_get_equally_many_held_out_batches(tmp_path, monkeypatch):
    """They may have to generate together."""
    path = write(tmp_path / "a.jsonl", *({"prompt": str(row), "answer": "1"} for row in range(5)))
    data = serve(Files(path, path), 5, num_prompts_per_batch=2)
    for rank, expected in enumerate([[[0, 2], [4]], [[1, 3], []]]):
        monkeypatch.setattr(Ranks, "current", lambda rank=rank: Ranks(rank, 2))
        assert [[numbered.number for numbered in batch.prompts] for batch in data.val_dataloader()] == expected


# files


def test_json_lines(tmp_path):
    first = '{"prompt": "one\u2028line", "answer": 3, "level": "easy"}'  # that separator, as it is
    path = write(tmp_path / "a.jsonl", first, "", {"prompt": [user("b")], "answer": "4"})
    prompts = Files(path, path).train_prompts()
    assert [(p.text, p.answer, dict(p.columns), len(p.messages)) for p in prompts] == [
        ("one\u2028line", "3", {"level": "easy"}, 0),
        ("b", "4", {"level": None}, 1),
    ]
    assert prompts[1].source == f"{path}:3"


@pytest.mark.parametrize(
    ("line", "says"),
    [("{oops", "not valid JSON"), ("[1]", "expected an object"), ({"prompt": "x"}, "'answer'.*data.answer_column"),
     ({"prompt": ["x"], "answer": "1"}, "'prompt'.*data.prompt_column")],
)  # fmt: skip
def test_a_bad_line_is_named(tmp_path, line, says):
    path = write(tmp_path / "bad.json", {"prompt": "x", "answer": "1"}, line)
    with pytest.raises(DataError, match=rf"bad\.json:2: .*{says}"):
        Files(path, path).train_prompts()


def test_a_json_file_may_be_one_array(tmp_path):
    rows = [{"prompt": "a", "answer": 1}, {"prompt": "b", "answer": 2}]
    (tmp_path / "rows.json").write_text(json.dumps(rows, indent=2))
    prompts = Files(None, str(tmp_path / "rows.json")).validation_prompts()
    assert [(p.text, p.answer, p.source[-12:]) for p in prompts] == [
        ("a", "1", "/rows.json:1"),
        ("b", "2", "/rows.json:2"),
    ]
    for text, says in (('[{"prompt": "a", "answer": 1},\n 5]', ":2: expected an object"), ("[\n{oops", "at line 2")):
        (tmp_path / "rows.json").write_text(text)
        with pytest.raises(DataError, match=says):
            Files(None, str(tmp_path / "rows.json")).validation_prompts()


def test_a_name_that_occurs_twice_in_an_object_is_refused(tmp_path):
    path = write(tmp_path / "rows.jsonl", {"prompt": "a", "answer": 1}, '{"prompt": "a", "answer": 1, "answer": 2}')
    with pytest.raises(DataError, match=r"rows\.jsonl:2: the name 'answer' occurs twice"):
        Files(None, path).validation_prompts()


def test_cells_of_a_csv_stay_as_written(tmp_path):
    text = '\ufeffprompt,answer,level\r\n"two\nlines, ""quoted""",007,\r\n\r\nb,"1,000",NA\r\nc,1.0,3\r\n'
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    prompts = Files(None, str(path)).validation_prompts()
    assert [(p.text, p.answer, p.columns["level"]) for p in prompts] == [
        ('two\nlines, "quoted"', "007", ""),
        ("b", "1,000", "NA"),
        ("c", "1.0", "3"),
    ]
    assert [p.source for p in prompts] == [f"{path}:{row}" for row in (1, 2, 3)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prompt,answer\na,1\nWhat is 1,000?,5\n", r":2: the row has more or fewer cells.*quotes"),
        ("prompt,answer\na\n", ":1: the row has more or fewer cells"),
        ("prompt,answer,answer\na,1,2\n", "a column occurs twice"),
        ('prompt,answer\n"a"b,1\n', "cannot be read"),
        ("prompt;answer\na;1\n", r":1: column 'prompt' is missing.*\['prompt;answer'\]"),
    ],
)
def test_a_broken_csv_is_told_and_never_shifted(tmp_path, text, says):
    path = write(tmp_path / "a.csv", text)
    with pytest.raises(DataError, match=rf"a\.csv.*{says}"):
        Files(path, path).train_prompts()


def test_parquet(tmp_path):
    path = parquet(tmp_path / "a[1].parquet", [dapo_math(7, 0), dapo_math(8, 1)])
    files = Files(path, path, answer_column="reward_model.ground_truth")
    prompts = files.train_prompts()
    assert prompts == files.validation_prompts()
    assert (prompts[1].text, prompts[1].answer, prompts[1].source) == ("What is 8 + 1?", "9", f"{path}:2")
    assert prompts[1].messages == (user("What is 8 + 1?"),)
    assert prompts[1].columns == {name: value for name, value in dapo_math(8, 1).items() if name != "prompt"}


def test_parquet_of_integers_with_gaps_and_of_mixed_types(tmp_path):
    gaps = parquet(tmp_path / "gaps.parquet", [{"prompt": "a", "answer": 3.0}, {"prompt": "b", "answer": None}])
    with pytest.raises(DataError, match=r"gaps\.parquet:2: column 'answer' is missing or null"):
        Files(gaps, gaps).train_prompts()
    rows = Dataset.from_json(
        write(tmp_path / "mixed.jsonl", {"prompt": "a", "answer": 3}, {"prompt": "b", "answer": "x"})
    )
    rows.to_parquet(tmp_path / "mixed.parquet")
    assert [p.answer for p in Files(None, str(tmp_path / "mixed.parquet")).validation_prompts()] == ["3", "x"]


def test_files_that_cannot_be_read_are_named(tmp_path):
    for name in ("nowhere.jsonl", "nowhere.csv", "nowhere.parquet"):
        with pytest.raises(DataError, match=rf"{name}: cannot be read .*data\.train_path"):
            Files(name, name).train_prompts()
    broken = write(tmp_path / "broken.parquet", "no parquet")
    (tmp_path / "latin.csv").write_bytes("prompt,answer\nä,1".encode("latin-1"))
    for path in (broken, str(tmp_path / "latin.csv")):
        with pytest.raises(DataError, match="cannot be read"):
            Files(path, path).train_prompts()
    with pytest.raises(DataError, match=r"a\.xlsx: the extension is none of \.jsonl, \.json, \.parquet, \.csv"):
        Files("a.xlsx", "a.xlsx").validation_prompts()
    with pytest.raises(DataError, match="mode=evaluate"):
        Files(None, "a.csv").train_prompts()


def test_every_row_has_the_columns_of_all(tmp_path):
    path = write(tmp_path / "rows.jsonl", {"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": "2", "hint": "x"})
    assert [prompt.columns for prompt in Files(None, path).validation_prompts()] == [{"hint": None}, {"hint": "x"}]


def test_cells_of_a_csv_may_be_long(tmp_path):
    (tmp_path / "rows.csv").write_text("prompt,answer\n" + "p" * 200_000 + ",1\n")
    (prompt,) = Files(None, str(tmp_path / "rows.csv")).validation_prompts()
    assert len(prompt.text) == 200_000


def test_json_that_is_nested_too_deeply_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "answer": 1}\n{"x": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(DataError, match=r"rows\.jsonl:2: the row is nested too deeply"):
        Files(None, str(path)).validation_prompts()


def test_the_files_that_a_dataset_names_are_not_opened(tmp_path):
    """In lists and records, too."""
    (tmp_path / "secret").write_text("hunter2")
    image, path = Image(), str(tmp_path / "secret")
    features = Features({"prompt": Value("string"), "answer": Value("string"), "image": image, "images": [image]})
    named = {"bytes": None, "path": path}
    rows = [{"prompt": "a", "answer": "1", "image": named, "images": [named]}]
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    data = [Files(None, str(tmp_path / "rows.parquet")), Hub(None, str(tmp_path / "rows.parquet"))]
    for prompts in (each.validation_prompts() for each in data):  # type: ignore[attr-defined]
        assert dict(prompts[0].columns) == {"image": named, "images": [named]}


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (b'{"prompt": "a", "answer": 123456789012345678901234567890}', "'answer' contains 1.23.*as text"),
        (b'{"prompt": "a", "answer": "2024-01-02"}', "test:1: column 'answer' contains a datetime.*data=jsonl"),
        (b'{"prompt": "ab", "answer": 1}\n{"prompt": "\xe4\xfc", "answer": 2}', "test:2: is not UTF-8.*Re-encode"),
    ],
)  # fmt: skip
def test_what_the_datasets_library_makes_of_text_and_numbers_is_noticed(tmp_path, lines, says):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines)
    with pytest.raises(DataError, match=says):
        Hub(None, str(path)).validation_prompts()


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "rows.jsonl", {"prompt": "a", "answer": "1"})
    (tmp_path / "file").touch()
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "file" / "cache")
    with pytest.raises(DataError, match=r"stores its data in .*/file/cache, which is not writable.*HF_HOME"):
        Hub(None, path).validation_prompts()


def test_empty_splits_are_named(tmp_path):
    full = write(tmp_path / "full.jsonl", {"prompt": "x", "answer": "1"})
    empty = write(tmp_path / "empty.jsonl", ""), write(tmp_path / "empty.csv", "prompt,answer\n")
    for path in (*empty, parquet(tmp_path / "empty.parquet", [])):
        with pytest.raises(DataError, match="validation split is empty"):
            serve(Files(full, path), 1)
    with pytest.raises(DataError, match=r"evaluation\.num_prompts=5"):
        serve(Files(full, full), 5)


# hub


def dataset(*overrides):
    return instantiate(config("run_folder=x", *overrides).data)


def test_any_dataset_by_folder_or_file(tmp_path):
    parquet(tmp_path / "set" / "train.parquet", [{"prompt": str(i), "answer": i} for i in range(5)])
    lines = write(tmp_path / "held_out.jsonl", {"prompt": "x", "answer": 3}, {"prompt": "y", "answer": 4.5})
    hub = dataset("data=hub", f"data.train_path={tmp_path / 'set'}", "data.train_split='train[1:3]'",
                  f"data.validation_path={lines}")  # fmt: skip
    train, held_out = hub.train_prompts(), hub.validation_prompts()
    assert [(p.text, p.answer) for p in train] == [("1", "1"), ("2", "2")]
    assert [(p.text, p.answer) for p in held_out] == [("x", "3"), ("y", "4.5")]
    assert (train[1].source, held_out[1].source) == (f"{tmp_path / 'set'}:train[1:3]:2", f"{lines}:test:2")


def test_dapo_math_drops_the_copies(tmp_path, caplog):
    parquet(tmp_path / "math" / "dapo-math-17k.parquet", [dapo_math(i % 3, i) for i in range(300)])
    parquet(tmp_path / "aime" / "aime-2024.parquet", [dapo_math(50 + i // 32, i) for i in range(64)])
    paths = f"data.train_path={tmp_path / 'math'}", f"data.validation_path={tmp_path / 'aime'}"
    with caplog.at_level(logging.INFO):
        train = dataset("data=dapo_math_17k", *paths).train_prompts()
    assert "dropped 297 rows of 300" in caplog.text
    assert [(p.text, p.answer) for p in train] == [(f"What is {i} + 1?", str(i + 1)) for i in range(3)]
    assert train[1].messages == (user("What is 1 + 1?"),) and train[1].source.endswith("math:train:2")
    assert train[1].columns == {name: value for name, value in dapo_math(1, 1).items() if name != "prompt"}
    held_out = dataset("data=dapo_math_17k", *paths).validation_prompts()
    assert [p.source.rsplit(":", 1)[1] for p in held_out] == ["1", "33"]


def test_aime_is_only_evaluated(tmp_path):
    path = parquet(tmp_path / "aime-2024.parquet", [dapo_math(i % 30, i) for i in range(960)])
    aime = dataset("data=aime_2024", f"data.validation_path={path}")
    assert len(aime.validation_prompts()) == 30
    with pytest.raises(DataError, match="mode=evaluate"):
        aime.train_prompts()


def test_gsm8k_as_downloaded(tmp_path):
    readme = "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: main/train-*\n"
    readme += "  - split: test\n    path: main/test-*\n- config_name: socratic\n  data_files: socratic/*\n---\n"
    parquet(tmp_path / "main" / "train-00000-of-00001.parquet", [gsm8k(i) for i in range(5)])
    parquet(tmp_path / "main" / "test-00000-of-00001.parquet", [gsm8k(i) for i in range(5, 8)])
    parquet(tmp_path / "socratic" / "train.parquet", [{"question": "why?", "answer": "because"}])
    write(tmp_path / "README.md", readme)
    data = dataset("data=gsm8k", f"data.train_path={tmp_path}", f"data.validation_path={tmp_path}")
    train, held_out = data.train_prompts(), data.validation_prompts()
    assert [p.answer for p in train] == ["1,001", "1,002", "1,003", "1,004", "1,005"]
    assert len(held_out) == 3 and held_out[0].text == "What is 1005 + 1?"
    assert train[0].columns == {"answer": gsm8k(0)["answer"]}
    assert data.train_prompts() == train


def test_many_copies_are_dropped_before_they_become_prompts(tmp_path, monkeypatch):
    path = parquet(tmp_path / "many.parquet", [dapo_math(i % 200, i) for i in range(100_000)])
    read, sources = Columns.read, []
    monkeypatch.setattr(Columns, "read", lambda self, row, source: sources.append(source) or read(self, row, source))
    hub = Hub(None, path, answer_column="reward_model.ground_truth", unique=True)
    start = time.perf_counter()
    assert len(hub.validation_prompts()) == 200
    assert time.perf_counter() - start < 10  # about one
    assert len(sources) <= 201 and len(set(sources)) == 200


def test_unique_compares_prompt_and_answer_of_any_type(tmp_path):
    rows = [("a", 1), ("a", "1"), ("a", 1), ([user("a")], 1), ([user("a")], 1), ("b", 1), ("b", 2)]
    path = write(
        tmp_path / "mixed.jsonl", *[{"prompt": p, "reward": {"truth": a}, "id": i} for i, (p, a) in enumerate(rows)]
    )
    prompts = Hub(None, path, answer_column="reward.truth", unique=True).validation_prompts()
    assert [p.columns["id"] for p in prompts] == [0, 3, 5, 6]  # 1 and "1" are one answer


@pytest.mark.parametrize("unique", [True, False])
def test_a_bad_row_of_a_dataset_is_named(tmp_path, unique):
    path = parquet(tmp_path / "a.parquet", [GOOD, GOOD | {"prompt": None}, GOOD])
    with pytest.raises(DataError, match=rf"^{path}:train:2: column 'prompt' is missing.*data\.prompt_column"):
        Hub(path, path, unique=unique).train_prompts()
    with pytest.raises(DataError, match=rf"^{path}:test:1: column 'label' is missing.*data\.answer_column"):
        Hub(path, path, answer_column="label", unique=unique).validation_prompts()


def test_what_a_folder_does_not_have_is_told_with_what_it_has(tmp_path):
    folder = tmp_path / "set"
    parquet(folder / "train.parquet", [GOOD])
    with pytest.raises(
        DataError, match=r"^data\.validation_split=test: .*\['train'\].*Choose another data\.validation_split"
    ):
        Hub(str(folder), str(folder)).validation_prompts()
    with pytest.raises(DataError, match=r"data\.train_name=main: .*not found. Available: \['default'\]"):
        Hub(str(folder), str(folder), train_name="main").train_prompts()
    with pytest.raises(DataError, match=r"^data\.train_split=train\[:0\]: .*no data"):
        Hub(str(folder), str(folder), train_split="train[:0]").train_prompts()
    empty = str(tmp_path / "empty.parquet")
    Dataset.from_dict({"prompt": [], "answer": []}).to_parquet(empty)
    with pytest.raises(DataError, match=r"^data\.train_split=train: .*no data"):
        Hub(empty, empty, unique=True).train_prompts()


def test_folders_and_files_that_cannot_be_loaded(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "empty").mkdir()
    write(tmp_path / "broken" / "train.parquet", "no parquet")
    write(tmp_path / "lines.jsonl", "{oops")
    for path in (tmp_path / "broken", tmp_path / "empty", tmp_path / "lines.jsonl", tmp_path / "nowhere"):
        with pytest.raises(DataError, match=rf"^data\.train_path={path} .*cannot be loaded \(.+\)\. Set") as told:
            Hub(str(path), "x").train_prompts()
        assert "\n" not in str(told.value) and told.value.__suppress_context__
    table = write(tmp_path / "a.csv", "prompt,answer\na,007\n")
    with pytest.raises(DataError, match=r"a\.csv: the extension .*data=jsonl"):
        Hub(table, table).train_prompts()


UNREACHABLE = (
    r"hub cannot be reached .*hf download --repo-type dataset openai/gsm8k --local-dir DIR.*data\.train_path=DIR"
)


def test_an_unreachable_hub_is_one_sentence(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr("time.sleep", lambda _: None)  # between its attempts
    with pytest.raises(DataError, match=rf"^data\.train_path=openai/gsm8k: .*{UNREACHABLE}") as told:
        dataset("data=gsm8k").train_prompts()
    assert "\n" not in str(told.value)


def test_offline_mode_is_one_sentence(tmp_path):
    script = "from dapo_lightning.data.hub import Hub\ntry: Hub('openai/gsm8k', 'x').train_prompts()\n"
    script += "except ValueError as error: print(error)"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, cwd=Path(__file__).parents[3],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.count("\n") == 1
    with pytest.raises(DataError, match=UNREACHABLE):
        raise DataError(done.stdout)


def test_an_unknown_dataset_is_one_sentence(monkeypatch):
    from datasets.exceptions import DatasetNotFoundError

    def refuse(*_, **__):
        raise DatasetNotFoundError("Dataset 'openai/gsm9k' doesn't exist on the Hub or cannot be accessed.")

    monkeypatch.setattr("datasets.load_dataset_builder", refuse)
    with pytest.raises(DataError, match=r"^data\.validation_path=openai/gsm9k: .*doesn't exist.*hf auth login"):
        Hub(None, "openai/gsm9k").validation_prompts()
