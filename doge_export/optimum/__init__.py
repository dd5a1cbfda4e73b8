"""Doge for optimum's own exporter, in an environment of the extra `optimum` (transformers 4.57).

`optimum-cli export onnx --model DOGE OUT` finds it by the file in plugin/. A Python program calls `register_doge()` of
`doge_export.optimum.exporter` before optimum's `main_export` or `ORTModelForCausalLM.from_pretrained(export=True)`.
"""
