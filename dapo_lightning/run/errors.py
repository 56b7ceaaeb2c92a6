"""The error of a configuration."""


class ConfigError(ValueError):
    """A configuration that cannot be run as it stands; the message names the key, the reason and the remedy."""
