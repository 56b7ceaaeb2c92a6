import pytest

from dapo_lightning.run.objects import made

TARGET = {"_target_": "dapo_lightning.reward.weighted.Weighted", "correctness": "a"}


@pytest.mark.parametrize("text", ["${b}", "\\${b}", "\\\\${b}", "${oc.env:HOME}", "\\", "a\\b", "\\${", "$", "{a}"])
def test_texts_arrive_as_they_are(text):
    """Also within containers and nested objects, and with a key of that name beside them."""
    inner = TARGET | {"weights": {"a": text}, "a": text, "correctness": "a"}
    found = made({"x": TARGET | {"weights": {"a": [text]}, "a": inner}, "b": {"_target_": "builtins.dict"}})["x"]
    assert found.weights == {"a": [text]} and type(found.weights["a"]) is list
    assert found.parts["a"].weights == {"a": text} and found.parts["a"].parts == {"a": text}
