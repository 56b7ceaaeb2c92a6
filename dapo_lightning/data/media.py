"""Images, sound and other media in datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset


def without_decoding(dataset: Dataset) -> Dataset:
    """Returns the dataset with its media as they are stored, as bytes and a path. Decoding them would open any file
    whose path the dataset contains."""
    for feature in dataset.info.features.values():  # `dataset.features` is a copy
        _keep_as_stored(feature)
    return dataset


def _keep_as_stored(feature: Any) -> None:
    if isinstance(feature, dict | list | tuple):
        for inner in feature.values() if isinstance(feature, dict) else feature:
            _keep_as_stored(inner)
    elif hasattr(feature, "feature"):
        _keep_as_stored(feature.feature)
    elif hasattr(feature, "decode") and type(feature).__name__ != "Json":
        feature.decode = False
