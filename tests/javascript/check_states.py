"""States that JavaScript saved go on in Python: python -m tests.javascript.check_states FOLDER

FOLDER is that of `write_vectors`, after the tests of javascript/ have run. The exit code is the number of streams that
do not go on with the same tokens.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import doge_export
from doge_export import Conversation


def differing(work: Path, saved: Path) -> list[str]:
    """The state files of one list that go on otherwise, by the standard graphs or by DogeStep."""
    wrong = []
    for row in json.loads(saved.read_text()):
        folder = work / row["folder"]
        ways = (
            [False]
            if folder.name.endswith("kv-int8") or not (folder / "onnx/decoder_step.onnx").is_file()
            else [False, True]
        )
        for operators in ways:
            model = doge_export.load(folder, threads=1, operators=operators)
            state = model.load_state(work / row["file"])
            found = model.generate(
                "",
                state=state,
                ignore_eos=True,
                temperature=0.0,
                repetition_penalty=row["penalty"],
                max_new_tokens=len(row["tokens"]),
            )
            if found.token_ids != row["tokens"] or state.metadata != {"note": row["note"]}:
                wrong.append(f"{row['file']} with operators={operators}: {found.token_ids} instead of {row['tokens']}")
    return wrong


def conversation_differs(work: Path) -> list[str]:
    """Whether a conversation that JavaScript saved goes on otherwise."""
    expected = json.loads((work / "conversation.json").read_text())
    model = doge_export.load(work / "doge-20m-10min-int8", threads=1, operators=False)
    talk = Conversation.resume(model, model.options(max_new_tokens=20), work / "conversation.safetensors")
    messages, answer = list(talk.messages), "".join(talk.ask(expected["question"]))
    if (messages, answer) == (expected["messages"], expected["text"]):
        return []
    return [f"the conversation goes on with {answer!r} behind {messages} instead of {expected}"]


def main() -> int:
    """Check every list; print the streams that differ."""
    work = Path(sys.argv[1])
    lists = sorted(work.glob("saved-*.json"))
    if not lists:
        print(f"{work} has no states of JavaScript; run its tests first")
        return 1
    wrong = [line for saved in lists for line in differing(work, saved)] + conversation_differs(work)
    print("\n".join([*wrong, f"{len(lists)} folders, {len(wrong)} streams that differ"]))
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
