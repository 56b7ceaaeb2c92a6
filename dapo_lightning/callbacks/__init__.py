"""Callbacks and loggers around the DAPO steps: checkpoints, samples, charts, warnings."""
