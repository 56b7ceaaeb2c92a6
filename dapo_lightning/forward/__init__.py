"""One forward pass over completions that share their prompts.

`layout` replaces the attention of a Hugging Face model, `packed_layout` describes a micro-batch, `rows` says how it
attends, `micro_batches` chooses its rows, `logprobs` runs the pass, and `probe` switches the models that allow it.
"""
