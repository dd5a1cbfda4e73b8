"""Exported models over HTTP, as OpenAI's interface has it: docs/serving.md."""
