"""One forward pass over completions that share their prompts."""
