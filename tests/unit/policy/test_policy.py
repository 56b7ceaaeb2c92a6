"""Pretrained policies: a small Llama saved to a folder stands in for a model from the hub."""

import csv
import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from conftest import tiny
from peft import PeftModel
from runs import SMALL, assert_same_weights, config, resume, run, weights
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    OPTConfig,
    OPTForCausalLM,
)

from dapo_lightning.data import DataError
from dapo_lightning.forward.logprobs import completion_logps
from dapo_lightning.policy import PolicyError
from dapo_lightning.policy.hub import HubPolicy
from dapo_lightning.policy.lora import Lora
from dapo_lightning.rollout.hf_generate import HFGenerate
from dapo_lightning.run.build import build, set_up
from dapo_lightning.run.command import as_dict
from dapo_lightning.run.errors import ConfigError
from dapo_lightning.run.session import evaluate
from dapo_lightning.types import Generation, Prompt
from dapo_lightning.utils.checkpoints import latest

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{{ mood | default('') }}{% endif %}"
)
ROWS = [torch.tensor([5, 6, 7]), torch.tensor([8, 9])]
PROMPTS = [(3, 4, 5, 6), (7, 8)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with more than one end token, and a chat template."""
    policy, folder = tiny(seed=1), tmp_path_factory.mktemp("hub") / "model"
    policy.codec.tokenizer.chat_template = TEMPLATE
    policy.model.generation_config.eos_token_id = [1, *range(20, 60)]
    policy.save(folder)
    return folder


def without(folder, tmp_path, name):
    """A copy of the folder in which the tokenizer lacks something."""
    copy = tmp_path / "copy"
    policy = tiny(seed=1)
    policy.codec.tokenizer.chat_template = TEMPLATE
    setattr(policy.codec.tokenizer, name, None)
    policy.model.generation_config.eos_token_id = policy.model.config.eos_token_id = None
    policy.save(copy)
    return copy


def encoded(folder, prompt, **options):
    codec = HubPolicy(str(folder), **options).codec()
    return codec.tokenizer.decode(codec.encode(prompt))


def test_prompts_go_through_the_chat_template(folder):
    prompt = Prompt("1+1=", "2", "test:0")
    assert encoded(folder, prompt) == "[user]1+1=[assistant]"
    assert encoded(folder, prompt, system_prompt="Count.") == "[system]Count.[user]1+1=[assistant]"
    assert encoded(folder, prompt, template_kwargs={"mood": "!"}) == "[user]1+1=[assistant]!"
    assert encoded(folder, prompt, chat=False) == "1+1="
    chat = Prompt("b", "2", "test:0", messages=({"role": "system", "content": "a"}, {"role": "user", "content": "b"}))
    assert encoded(folder, chat) == "[system]a[user]b[assistant]"
    with pytest.raises(DataError, match=r"test:0.*policy\.system_prompt"):
        encoded(folder, chat, system_prompt="c")
    with pytest.raises(DataError, match=r"test:0.*policy\.chat=true"):
        encoded(folder, chat, chat=False)


def test_a_row_that_the_chat_template_refuses_is_named(folder, tmp_path):
    codec = HubPolicy(str(folder)).codec()
    refused = "{% if loop.index0 % 2 %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    codec.tokenizer.chat_template = TEMPLATE.replace("{% endfor %}", refused + "{% endfor %}")
    said = {"role": "user", "content": "b"}
    assert codec.encode(Prompt("b", "2", "test:0", messages=(said,)))
    with pytest.raises(DataError, match=r"rows\.jsonl:7: .*\(roles: user, user\).*must alternate\. Fix the row"):
        codec.encode(Prompt("b", "2", "rows.jsonl:7", messages=(said, said)))


def test_everything_about_texts_is_known_before_the_weights_are_loaded(folder, tmp_path):
    (no_weights := tmp_path / "model").mkdir()
    for file in folder.glob("*.json*"):
        (no_weights / file.name).write_bytes(file.read_bytes())
    codec = HubPolicy(str(folder)).codec()
    assert codec.end_tokens == (1, *range(20, 60)) and codec.max_positions == 512
    with pytest.raises(PolicyError, match="cannot be loaded"):
        HubPolicy(str(no_weights), chat=False).load(codec, None, tmp_path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dtype": "bfloat16"}, r"policy\.dtype=bfloat16.*trainer\.precision=bf16-mixed"),
        ({"dtype": "int8"}, "choose one of"),
        ({"chat": False, "system_prompt": "x"}, r"policy\.chat=true"),
        ({"chat": False, "template_kwargs": {"x": 1}}, r"policy\.chat=true"),
    ],
)
def test_options_without_meaning_are_refused(options, says):
    with pytest.raises(PolicyError, match=says):
        HubPolicy("somewhere", **options)


def test_what_a_folder_lacks_is_told(folder, tmp_path, monkeypatch):
    with pytest.raises(PolicyError, match=r"no chat template.*policy\.chat=false"):
        HubPolicy(str(without(folder, tmp_path, "chat_template"))).codec()
    with pytest.raises(PolicyError, match="no end-of-sequence token"):
        HubPolicy(str(without(folder, tmp_path, "eos_token"))).codec()
    with pytest.raises(PolicyError, match=r"\./no/smollm2: is no folder.*make smollm2"):
        HubPolicy("./no/smollm2").codec()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # without it, the same after retries
    with pytest.raises(PolicyError, match=r"policy\.name=no/such.*hf download no/such"):
        HubPolicy("no/such").codec()


def test_weights_are_float32_whatever_the_file_holds(folder, tmp_path):
    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(half)
    HubPolicy(str(folder)).codec().tokenizer.save_pretrained(half)
    source = HubPolicy(str(half), attention="eager")
    model = source.load(source.codec(), None, tmp_path).model
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert model.config._attn_implementation == "eager" and not model.training
    frozen = HubPolicy(str(half), dtype="bfloat16", lora=Lora()).load(source.codec(), None, tmp_path).model
    assert {weight.dtype for weight in frozen.parameters() if weight.requires_grad} == {torch.float32}
    assert {weight.dtype for weight in frozen.parameters() if not weight.requires_grad} == {torch.bfloat16}


def logps(model):
    return completion_logps(model, PROMPTS, ROWS, 1.0)[0]


def test_fresh_adapters_change_nothing_and_switched_off_they_are_the_reference(folder, tmp_path):
    plain, adapted = HubPolicy(str(folder)), HubPolicy(str(folder), lora=Lora(rank=4))
    codec = plain.codec()
    policy, base = adapted.load(codec, None, tmp_path), plain.load(codec, None, tmp_path)
    torch.testing.assert_close(logps(policy.model), logps(base.model))
    trained = [name for name, weight in policy.model.named_parameters() if weight.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    changed = logps(policy.model)
    assert (changed - logps(base.model)).abs().max() > 0.1
    with policy.reference()() as reference:
        torch.testing.assert_close(logps(reference), logps(base.model))
    torch.testing.assert_close(logps(policy.model), changed)

    policy.save(tmp_path / "merged")
    torch.testing.assert_close(
        logps(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), changed, atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(logps(policy.model), changed)  # saving has not merged it
    HubPolicy(str(folder), lora=Lora(rank=4, save="adapter")).load(codec, None, tmp_path).save(tmp_path / "adapter")
    assert PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()


@pytest.mark.parametrize(("settings", "says"), [({"rank": 0}, "rank=0"), ({"save": "both"}, "save=both")])
def test_lora_settings_without_meaning_are_refused(settings, says):
    with pytest.raises(PolicyError, match=says):
        Lora(**settings)


@pytest.mark.parametrize("lora", [None, Lora(rank=4)])
def test_end_tokens_outlive_generation(folder, tmp_path, lora):
    source = HubPolicy(str(folder), lora=lora)
    policy = source.load(source.codec(), None, tmp_path)
    list(HFGenerate()(policy.model, PROMPTS, torch.rand(2, 1, 3), Generation(3), policy.codec.end_tokens))
    policy.save(tmp_path / "saved")
    assert GenerationConfig.from_pretrained(tmp_path / "saved").eos_token_id == [1, *range(20, 60)]


def test_adapters_need_layers_to_sit_on(folder, tmp_path):
    source = HubPolicy(str(folder), lora=Lora(target_modules=["nothing_like_it"]))
    with pytest.raises(PolicyError, match=r"policy\.lora\.target_modules"):
        source.load(source.codec(), None, tmp_path)


SMALL_HUB = ("policy=hub", "data=arithmetic", "data.num_train=10", "data.num_validation=8")


def hub_run(target, folder, *overrides):
    return run(target, *SMALL_HUB, f"policy.name={folder}", *overrides)


def test_a_hub_policy_trains_and_activation_checkpointing_changes_only_memory(folder, tmp_path):
    plain = hub_run(tmp_path / "plain", folder)
    options = ("trainer.activation_checkpointing=true", "trainer.offload_optimizer=true")
    recomputed = hub_run(tmp_path / "recomputed", folder, *options)
    for name, one in weights(plain).items():
        torch.testing.assert_close(one, weights(recomputed)[name], atol=2e-5, rtol=0)
    start = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert all(not torch.equal(start[name], one) for name, one in weights(plain).items())


def test_lora_runs_resume_and_checkpoints_hold_the_adapters_only(folder, tmp_path):
    lora = ("policy=lora", "kl=k3", "trainer.activation_checkpointing=true")
    straight = hub_run(tmp_path / "straight", folder, *lora)
    state = torch.load(latest(straight / "checkpoints"), weights_only=True)["state_dict"]
    assert state and all("lora_" in name for name in state)
    hub_run(tmp_path / "resumed", folder, *lora, "num_steps=2")
    resume(tmp_path / "resumed", "num_steps=4")
    assert_same_weights(straight, tmp_path / "resumed")

    other = config(*SMALL_HUB, f"policy.name={folder}", "mode=evaluate", f"run_folder={tmp_path / 'other'}",
                   f"checkpoint={latest(straight / 'checkpoints')}", "evaluation.num_prompts=8")  # fmt: skip
    with pytest.raises(ValueError, match=r"other weights.*policy\.\* settings"):
        evaluate(as_dict(other), *set_up(other))


def steps(folder):
    with (folder / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["step"] != "0"]


def test_bf16_compute_trains_float32_weights(folder, tmp_path):
    """Every weight must move: bf16 copies of weights must not outlive the rollout or a gradient step."""
    exact = hub_run(tmp_path / "exact", folder, "sampling=static")
    mixed = hub_run(tmp_path / "mixed", folder, "sampling=static", "trainer.precision=bf16-mixed")
    start = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    for name, one in weights(mixed).items():
        assert one.dtype == torch.float32
        moved, expected = (one - start[name]).abs().mean(), (weights(exact)[name] - start[name]).abs().mean()
        assert moved > 0.3 * expected, name
    assert all(float(row["kl/old"]) > 1e-6 for row in steps(mixed))
    assert all(0 < float(row["sampling/logp_gap"]) < 0.05 for row in steps(mixed))


def test_dropout_stays_off(tmp_path):
    policy = tiny(seed=1)
    config = GPT2Config(vocab_size=300, n_positions=128, n_embd=32, n_layer=2, n_head=2, eos_token_id=1,
                        bos_token_id=None, resid_pdrop=0.5, attn_pdrop=0.5, embd_pdrop=0.5)  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    policy.codec.tokenizer.save_pretrained(tmp_path / "gpt2")
    for name, option in (("plain", "false"), ("recomputed", "true")):
        folder = hub_run(tmp_path / name, tmp_path / "gpt2", "policy.chat=false", "sampling=static",
                         f"trainer.activation_checkpointing={option}")  # fmt: skip
        assert all(float(row["sampling/logp_gap"]) < 1e-5 for row in steps(folder))
    assert json.loads((folder / "summary.json").read_text())["gradient_steps"] == 8


def test_dropout_stays_off_in_layers_that_apply_it_themselves(tmp_path):
    """OPT's layers do, as often as they are in training mode: then gradient checkpointing would turn it on."""
    config = OPTConfig(vocab_size=300, hidden_size=32, word_embed_proj_dim=32, ffn_dim=64, num_hidden_layers=2,
                       num_attention_heads=2, max_position_embeddings=128, dropout=0.5, eos_token_id=1)  # fmt: skip
    OPTForCausalLM(config).save_pretrained(tmp_path)
    tiny(seed=1).codec.tokenizer.save_pretrained(tmp_path)
    source = HubPolicy(str(tmp_path), chat=False)
    policy, found = replace(source.load(source.codec(), None, tmp_path), recomputes=True), []
    for context in (nullcontext, policy.recomputing_activations):
        policy.model.zero_grad()
        with context():
            values = logps(policy.model)
            values.sum().backward()
        assert not any(module.training for module in policy.model.modules())
        found.append((values.detach(), [weight.grad.clone() for weight in policy.model.parameters()]))
    torch.testing.assert_close(found[1], found[0])


def test_log_probs_in_bfloat16_are_not_exact(folder, tmp_path):
    small = [o for o in SMALL if not o.startswith("policy.")]
    lora = [*small, "policy=lora", f"policy.name={folder}", "trainer.precision=32-true", f"run_folder={tmp_path}"]
    for dtype, exact in (("float32", True), ("bfloat16", False)):
        module, _ = build(config(*lora, f"policy.dtype={dtype}"))
        assert module.host.logps_are_exact is exact
    assert not build(config(*lora, "rollout.dtype=bfloat16"))[0].host.logps_are_exact
    with pytest.raises(ConfigError, match="nothing to correct"):
        build(config(*lora, "policy.dtype=float32", "correction=truncated"))
    build(config(*lora, "policy.dtype=bfloat16", "correction=truncated"))


def test_chats_from_a_file_graded_as_mathematics(folder, tmp_path):
    rows = [{"prompt": [{"role": "user", "content": f"{i}+1="}], "answer": i + 1, "level": 1} for i in range(6)]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    target = run(
        tmp_path / "run", "policy=hub", f"policy.name={folder}", "data=jsonl", f"data.train_path={data}",
        f"data.validation_path={data}", "reward=math", "evaluation.num_prompts=null", "sampling=static", "num_steps=1",
    )  # fmt: skip
    summary = json.loads((target / "summary.json").read_text())
    assert summary["prompts"] == {
        "train": 6, "train_dropped": 0, "validation": 6, "validation_dropped": 0, "evaluated": 6, "repeated": 6,
    }  # fmt: skip
    evaluated = [json.loads(line) for line in (target / "evaluation.jsonl").read_text().splitlines()]
    assert evaluated[2]["prompt"] == rows[2]["prompt"] and evaluated[2]["answer"] == "3"


def test_a_folder_is_one_without_a_dot_before_it(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert HubPolicy(folder.name).codec().max_positions == 512


def test_without_peft_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PolicyError, match=r'peft: pip install "dapo-lightning\[lora\]"'):
        Lora()
