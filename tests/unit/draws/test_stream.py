from dapo_lightning.draws.stream import PromptStream
from dapo_lightning.types import Prompt

PROMPTS = [Prompt(str(i), str(i), f"test:{i}") for i in range(10)]


def test_every_epoch_shows_every_prompt_once_in_another_order():
    stream = PromptStream(PROMPTS, seed=0)
    epochs = [[numbered.prompt.text for numbered in stream.take(start, start + 10)] for start in (0, 10, 20)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_prompt_does_not_depend_on_what_was_taken_before():
    one, other = PromptStream(PROMPTS, 0), PromptStream(PROMPTS, 0)
    other.take(25, 28)
    assert one.take(7, 13) == other.take(7, 13)
    assert PromptStream(PROMPTS, 1).take(0, 10) != one.take(0, 10)
