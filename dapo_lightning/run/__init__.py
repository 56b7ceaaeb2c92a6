"""A run from its command line to its folder: the only room that knows Hydra."""
