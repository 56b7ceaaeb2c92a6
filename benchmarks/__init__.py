"""Speed and learning beside TRL, on one machine: `python -m benchmarks.<module>`, after `pip install .[benchmarks]`."""
