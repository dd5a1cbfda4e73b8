"""The repository's own checkpoint, exported and used: python examples/doge_tiny.py "Once upon a time" """

import sys
import tempfile
from pathlib import Path

import doge_export
from doge_export.export.pipeline import export
from doge_export.options import ExportOptions

CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "doge-tiny"

with tempfile.TemporaryDirectory() as folder:
    model = doge_export.load(export(ExportOptions(str(CHECKPOINT), Path(folder) / "int8", "int8")).folder)
    story = model.generate(sys.argv[1], max_new_tokens=150, temperature=0.8, top_p=0.9, seed=233)
    print(sys.argv[1] + story.text)
