"""An exported folder in onnxruntime-genai: python examples/genai_chat.py FOLDER QUESTION

It needs `pip install onnxruntime-genai`, and nothing of this repository.
"""

import json
import sys

import onnxruntime_genai as og

folder, question = sys.argv[1:]
model = og.Model(folder)
tokenizer = og.Tokenizer(model)
messages = json.dumps([{"role": "user", "content": question}])
prompt = tokenizer.encode(tokenizer.apply_chat_template(messages, add_generation_prompt=True))

params = og.GeneratorParams(model)
params.set_search_options(max_length=len(prompt) + 64)  # prompt and answer; at most context_length
params.set_speculative_options(ngram_size=3, max_draft_tokens=4)  # guesses from earlier text; may be left out
generator = og.Generator(model, params)
generator.append_tokens(prompt)
stream = tokenizer.create_stream()
while not generator.is_done():
    generator.generate_next_token()
    print(stream.decode(generator.get_next_tokens()[0]), end="", flush=True)
print()
