"""From prompts to tokens and back, with tokenizers and chat templates as they are found in the wild."""

import datetime
import resource
import sys

import pytest
from conftest import tiny
from tokenizers.processors import TemplateProcessing

from dapo_lightning.data import DataError
from dapo_lightning.policy import PolicyError, chat
from dapo_lightning.policy.hub import HubPolicy
from dapo_lightning.types import Prompt

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SUM = Prompt("1+1=", "2", "test:0")


@pytest.fixture
def saved(tmp_path, caplog):
    """Saves a policy whose tokenizer was changed, and returns what `HubPolicy` makes of it."""

    def save(template=CHATML, added=("<|im_start|>", "<|im_end|>"), num_rows=320, change=lambda tokenizer: None):
        policy = tiny(seed=1)
        tokenizer = policy.codec.tokenizer
        tokenizer.add_special_tokens({"additional_special_tokens": list(added)})
        tokenizer.chat_template = template
        change(tokenizer)
        policy.model.resize_token_embeddings(num_rows)
        policy.save(tmp_path / "model")
        caplog.clear()
        return lambda **options: HubPolicy(str(tmp_path / "model"), **options).codec()

    return save


def refused(codec, text, answer="2", **prompt):
    with pytest.raises(DataError) as error:
        codec.encode(Prompt(text, answer, "rows.jsonl:7", **prompt))
    assert str(error.value).startswith("rows.jsonl:7: ")
    return str(error.value)


def test_an_end_of_turn_that_ends_nothing_is_named_and_can_be_made_an_end_token(saved, caplog):
    codec = saved()()
    im_end = codec.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert im_end not in codec.end_tokens
    assert "ends a turn with '<|im_end|>', which does not end a completion" in caplog.text
    assert "policy.end_tokens=['<|im_end|>']" in caplog.text
    caplog.clear()
    assert saved()(end_tokens=["<|im_end|>"]).end_tokens == (1, im_end)
    assert not caplog.text
    with pytest.raises(PolicyError, match=r"policy\.end_tokens=\['<end>'\]: '<end>' is not a token"):
        saved()(end_tokens=["<end>"])


@pytest.mark.parametrize(
    "template",
    [
        CHATML.replace("<|im_end|>", "<eos>"),
        CHATML.replace("<|im_end|>", ""),
        CHATML.replace("<|im_end|>", "   <eos>"),
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ raise_exception('no') }}{% endif %}"
        "{{ m['content'] }}{% endfor %}",
    ],
)
def test_other_ends_of_turns_are_no_matter(saved, caplog, template):
    saved(template, change=lambda tokenizer: tokenizer.add_tokens(["   "]))()
    assert not caplog.text


def test_special_tokens_reach_the_reward_if_they_are_kept_and_the_end_token_never_does(saved):
    text, load = "<think>1+1</think>2", saved(added=("<think>", "</think>", "<|im_end|>"))
    for keep, expected in ((False, "1+12"), (True, text)):
        codec = load(keep_special_tokens=keep, end_tokens=["<|im_end|>"])
        for end in ("<eos>", "<|im_end|>", ""):
            tokens = codec.tokenizer(text + end, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
            assert codec.decode(tokens) == expected


def test_a_special_token_that_the_system_prompt_asks_for_is_told(saved, caplog):
    load = saved(CHATML.replace("<|im_end|>", "<eos>"), added=("<|im_start|>", "<think>"))
    load(system_prompt="First think in <think>.")
    assert "contains '<think>', a special token, which is removed" in caplog.text
    caplog.clear()
    load(system_prompt="First think in <think>.", keep_special_tokens=True)
    load(system_prompt="First think.")
    assert not caplog.text


def test_an_end_token_that_is_not_special_is_not_text_either(saved):
    codec = saved(change=lambda tokenizer: tokenizer.add_tokens(["[END]"]))(end_tokens=["[END]"])
    tokens = codec.tokenizer("1[END]2[END]", add_special_tokens=False, return_tensors="pt")["input_ids"][0]
    assert codec.decode(tokens) == "1[END]2"


def test_half_a_surrogate_pair_names_the_row(saved):
    codec = saved()()
    assert codec.encode(Prompt("\U0001f600", "2", "test:0"))
    assert r"holds '\ud83d', which is half of a pair of surrogates" in refused(codec, "a\ud83d")
    said = {"role": "user", "content": "\ude00"}
    assert "half of a pair" in refused(codec, "a", messages=(said,))
    assert "half of a pair" in refused(codec, "a", answer="2\ud83d")


def test_a_token_without_a_row_in_the_embedding_is_refused_at_the_row_that_holds_it(saved, caplog):
    codec = saved(added=("<|im_start|>", "<|im_end|>", "<image>"), num_rows=221)()
    assert "has 222 tokens, but the embedding of the model has 221 rows" in caplog.text and "'<image>'" in caplog.text
    assert codec.encode(SUM)
    assert "'<image>', token 221, but the embedding of the model has only 221 rows" in refused(codec, "a <image>")


def test_an_end_token_behind_plain_text_is_left_out(saved, caplog):
    def append(tokenizer):
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<pad> $A <eos>", special_tokens=[("<pad>", 0), ("<eos>", 1)]
        )

    codec = saved(change=append)(chat=False)
    assert codec.tokenizer("1+1=")["input_ids"][-1] == 1
    assert codec.tokenizer.decode(codec.encode(SUM)) == "<pad>1+1="
    assert codec.tokenizer.decode(codec.encode(Prompt("1<eos>", "2", "test:0"))) == "<pad>1<eos>"  # the row says so
    assert "appends an end token to every text; it is removed from the prompts" in caplog.text


def test_a_template_with_todays_date_is_told_and_can_be_given_a_date(saved, caplog):
    load = saved("{{ strftime_now('%d %b %Y') }}" + CHATML.replace("<|im_end|>", "<eos>"))
    today = f"{datetime.date.today():%d %b %Y}"
    assert load().tokenizer.decode(load().encode(SUM)).startswith(today)
    assert (
        f"the same run has different prompts on other days. Fix the date with policy.date={datetime.date.today()}"
        in (caplog.text)
    )
    caplog.clear()
    codec = load(date="2026-01-31")
    assert codec.tokenizer.decode(codec.encode(SUM)).startswith("31 Jan 2026<|im_start|>user") and not caplog.text
    with pytest.raises(PolicyError, match=r"policy\.date=tomorrow: must be a date"):
        load(date="tomorrow")
    with pytest.raises(PolicyError, match=r"policy\.chat=true"):
        load(date="2026-01-31", chat=False)


def test_a_date_that_the_arguments_of_the_template_give_is_no_matter(saved, caplog):
    template = "{{ day if day is defined else strftime_now('%d') }}" + CHATML.replace("<|im_end|>", "<eos>")
    saved(template)(template_kwargs={"day": "4"})
    assert not caplog.text


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("{{ none + 'text' }}", "TypeError: unsupported operand"),
        ("{{ messages[7]['role'] }}", "has no element 7"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
    ],
)
def test_whatever_a_template_raises_names_the_row(saved, statement, says):
    assert says in refused(saved(statement)(), "1+1=")


@pytest.mark.parametrize("loop", ["{% for j in range(99999) %}{% endfor %}", "{% set x = (i + 7) ** 99999 %}"])
def test_a_template_that_does_not_end_is_stopped(saved, monkeypatch, loop):
    monkeypatch.setattr(chat, "RENDER_SECONDS", 0.3)
    endless = "{% for i in range(99999) %}" + loop + "{% endfor %}"
    with pytest.raises(PolicyError, match=r"its chat template cannot be used: it has not ended after 0\.3 s\."):
        saved(endless)()
    codec = saved("{% if 'x' in messages[0]['content'] %}" + endless + "{% endif %}" + CHATML)()
    assert "it has not ended after 0.3 s" in refused(codec, "x")
    assert codec.encode(SUM)


GROWTH = [
    "{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{% for i in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "{% for i in range(40) %}{% set ns.s = ns.s.replace('x', 'xx') %}{% endfor %}",
    "{% set ns.s = 'x' * 10**10 %}",
    "{% set ns.s = 'x'.ljust(10**10) %}",
    "{% set ns.s = '%010000000000d' % 1 %}",
    "{% set ns.s = (range(99999) | list) * 10**6 %}",
    "{% for i in range(40) %}{% set ns.s = ns.s + [ns.s] * 10**7 %}{% endfor %}",
]


@pytest.mark.skipif(sys.platform != "linux", reason="there is a memory limit on Linux only")
@pytest.mark.parametrize("growth", GROWTH)
def test_a_template_that_takes_all_memory_is_stopped(saved, monkeypatch, growth):
    monkeypatch.setattr(chat, "RENDER_MEGABYTES", 50)
    template = "{% set ns = namespace(s=" + ("[]" if "[ns.s]" in growth else "'x'") + ") %}" + growth + CHATML
    limit, peak = resource.getrlimit(resource.RLIMIT_AS), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PolicyError, match="its chat template cannot be used: it needs more than 50 MB of memory"):
        saved(template)()
    assert resource.getrlimit(resource.RLIMIT_AS) == limit
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < peak + 100 * 1024


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("hello", "does not contain the text of the messages"),
        (CHATML.replace("m['content']", "m['content'][0]['text']"), "does not contain the text of the messages"),
        ("{{ 'x' * 20000000 }}" + CHATML, "writes 20,000,0"),
    ],
)
def test_a_template_without_the_messages_or_without_measure_is_refused(saved, template, says):
    with pytest.raises(PolicyError, match=rf"^policy\.name=\S*: its chat template {says}"):
        saved(template)()


@pytest.mark.parametrize("key", ["add_generation_prompt", "tokenize", "return_dict", "continue_final_message"])
def test_arguments_that_are_not_for_the_template_are_refused(key):
    with pytest.raises(PolicyError, match=rf"policy\.template_kwargs: {key} is not an argument of the template"):
        HubPolicy("somewhere", template_kwargs={key: False})
