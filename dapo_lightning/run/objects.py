"""Makes the objects of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.utils import instantiate

from dapo_lightning.run.foreign import escaped


def made(settings: Mapping[str, Any], **arguments: Any) -> Any:
    """Makes the object that resolved settings describe, or all objects in a mapping of them.

    Texts arrive as they are, and containers as dicts and lists. Hydra interpolates twice, so what was checked before
    would not be what arrives, unless both are escaped.
    """
    return instantiate(escaped(escaped(settings)), _convert_="all", **arguments)
