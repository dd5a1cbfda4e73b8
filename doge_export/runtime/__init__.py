"""Runs exported folders with onnxruntime and numpy. Nothing here needs torch, transformers or onnx.

`model.load` opens a folder, and everything else hangs on its `Model`:

    tokens     decoder, state and their graphs: token ids in, logits out
    choice     generation_options, logits_processors, sampling, stopping: logits in, the next token out
    text       tokenizer, detokenizer, clean_up, streaming: tokens in, pieces of text out
    together   batch, batch_generation, batch_stream, merging: several answers at once
    chat       chat_template, template_limits, template_sandbox, chat_prompt, conversation: messages in, tokens out
    machine    threads, huge_pages, exactness, operators: the processor at hand
"""
