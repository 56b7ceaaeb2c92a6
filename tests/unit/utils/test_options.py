"""What options declare about themselves is read from their classes."""

from dapo_lightning.distributed.sharding import FSDP2
from dapo_lightning.rollout.decode import Decode
from dapo_lightning.utils.options import option_attribute, target_of


def test_a_class_attribute_is_read_without_building_the_option():
    assert option_attribute({"_target_": target_of(FSDP2), "timeout_minutes": "nonsense"}, "shards_weights") is True
    assert option_attribute({"_target_": target_of(Decode)}, "shards_weights") is False
    assert option_attribute("ddp", "shards_weights", default=None) is None


def test_functions_are_options_too():
    assert option_attribute({"_target_": "dapo_lightning.utils.options.option_attribute"}, "memory", 7) == 7
