"""A Llama as transformers.js' converter writes it: python llama_onnx.py FIELDS FOLDER, in the environment of optimum.

FIELDS are those of a LlamaConfig, in JSON; the weights are random. The steps are those of transformers.js'
scripts/convert.py: optimum's export, then 8 bits by `quantize_dynamic` (q8), and 4 bits in blocks of 32 (q4).
Nothing of this repository is imported, as its packages are not installed there.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from optimum.exporters.onnx import main_export
from transformers import LlamaConfig, LlamaForCausalLM


def main() -> None:
    """Write the folder with config.json, onnx/model_quantized.onnx and onnx/model_q4.onnx."""
    fields, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    torch.manual_seed(0)
    (folder / "onnx").mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        LlamaForCausalLM(LlamaConfig(**fields)).save_pretrained(temporary)
        exported = Path(temporary) / "exported"
        main_export(temporary, exported, task="text-generation-with-past", do_validation=False)
        source = exported / "model.onnx"
        quantize_dynamic(source, folder / "onnx" / "model_quantized.onnx", weight_type=QuantType.QUInt8)
        four = MatMulNBitsQuantizer(onnx.load(source), block_size=32, is_symmetric=True, accuracy_level=4)
        four.process()
        onnx.save(four.model.model, folder / "onnx" / "model_q4.onnx")
        for name in ("config.json", "generation_config.json"):
            (folder / name).write_bytes((exported / name).read_bytes())


if __name__ == "__main__":
    main()
