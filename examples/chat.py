"""Two turns of a conversation: python examples/chat.py FOLDER"""

import sys

import doge_export

model = doge_export.load(sys.argv[1])
messages = [{"role": "user", "content": "What is the capital of Germany?"}]
answer = model.chat(messages)
print(answer.text, f"({answer.decode_tokens_per_s:.0f} tokens/s)")

messages += [{"role": "assistant", "content": answer.text}, {"role": "user", "content": "And of Italy?"}]
for piece in model.chat(messages, stream=True):
    print(piece, end="", flush=True)
print()
