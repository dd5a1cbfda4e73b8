"""Drive the decoder file with nothing but onnxruntime and numpy, as a program in another language would.

    python examples/onnxruntime_only.py FOLDER 504 3575 282 4649 314

The arguments after the folder are token ids; it prints the ten tokens that follow greedily. docs/decoder.md explains.
"""

import json
import sys

import numpy as np
import onnxruntime as ort

session = ort.InferenceSession(f"{sys.argv[1]}/onnx/decoder.onnx", providers=["CPUExecutionProvider"])
sizes = json.loads(session.get_modelmeta().custom_metadata_map["doge_export.decoder"])
shape = (1, sizes["num_kv_heads"], sizes["keep_window_size"], sizes["channels"])
names = [f"{layer}.{part}" for layer in range(sizes["num_layers"]) for part in ("key", "value")]
state = {f"past_key_values.{name}": np.zeros(shape, np.float32) for name in names}

tokens, position, generated = [int(token) for token in sys.argv[2:]], 0, []
while len(generated) < 10:
    inputs = {
        "input_ids": np.array([tokens]),
        "position_ids": np.arange(position, position + len(tokens))[None],
        "seqlens_k": np.array([position + len(tokens) - 1], np.int32),
        "total_sequence_length": np.array(position + len(tokens), np.int32),
        "logits_to_keep": np.array([len(tokens) - 1]),
    }
    logits, *present = session.run(["logits", *(f"present.{name}" for name in names)], inputs | state)
    state = {f"past_key_values.{name}": value for name, value in zip(names, present, strict=True)}
    position += len(tokens)
    tokens = [int(logits[0, -1].argmax())]
    generated += tokens
print(generated)
