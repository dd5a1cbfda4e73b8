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
            state = model.load_state(work / row["file"], adapter=row.get("adapter"))
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


def differing_talks(work: Path) -> list[str]:
    """The conversations that JavaScript saved and that go on otherwise."""
    return [line for saved in sorted(work.glob("talked-*.json")) for line in differing_talk(work, saved)]


def differing_talk(work: Path, saved: Path) -> list[str]:
    """Whether a saved conversation goes on otherwise, taken back by a turn too."""
    expected = json.loads(saved.read_text())
    model = doge_export.load(work / expected["folder"], threads=1, operators=False)
    talk = Conversation.resume(model, model.options(**expected["options"]), saved.with_suffix(".safetensors"))
    messages, answer = list(talk.messages), "".join(talk.ask(expected["question"]))
    text = talk._text
    found = {"messages": messages, "answer": answer, "undone": [talk.undo(), talk.undo()], "left": talk._text}
    wanted = {name: expected[name] for name in found}
    if found == wanted and text.startswith(talk._text):
        return []
    return [f"{saved.stem} goes on otherwise: {found} instead of {wanted}"]


def main() -> int:
    """Check every list; print the streams that differ."""
    work = Path(sys.argv[1])
    lists = sorted(work.glob("saved-*.json"))
    talked = len(list(work.glob("talked-*.safetensors")))
    if not lists or not talked:
        print(f"{work} has no states or no conversations of JavaScript; run its tests first")
        return 1
    wrong = [line for saved in lists for line in differing(work, saved)] + differing_talks(work)
    print("\n".join([*wrong, f"{len(lists)} folders, {talked} conversations, {len(wrong)} streams that differ"]))
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
