"""Continue a text, streamed: python examples/generate.py FOLDER "Once upon a time" """

import sys

import doge_export

model = doge_export.load(sys.argv[1])
for piece in model.stream(sys.argv[2], max_new_tokens=100, temperature=0.8, top_p=0.9):
    print(piece, end="", flush=True)
print()
