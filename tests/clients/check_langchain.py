"""LangChain's client gets the answers of the library: python tests/clients/check_langchain.py ADDRESS WORK

Whole, streamed, several at once, and JSON by a schema. It ends in an AssertionError where one differs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from langchain_openai import ChatOpenAI, OpenAI


def main(address: str, work: Path) -> None:
    """Compare everything."""
    table = json.loads((work / "answers.json").read_text(encoding="utf-8"))
    common: dict[str, Any] = {"base_url": f"{address}/v1", "api_key": "none", "model": table["model"], "max_retries": 0}
    for question in table["questions"]:
        settings = {name: question[name] for name in ("temperature", "seed", "max_tokens")}
        chat = ChatOpenAI(**common, **settings)
        assert chat.invoke(question["text"]).content == question["chat"]
        assert "".join(str(piece.content) for piece in chat.stream(question["text"])) == question["chat"]
        assert [answer.content for answer in chat.batch([question["text"]] * 3)] == [question["chat"]] * 3
        assert OpenAI(**common, **settings).invoke(question["text"]) == question["completion"]
        form = {"title": "animal", **table["schema"]}
        by_form = ChatOpenAI(**common, **(settings | {"max_tokens": 100}))
        found = by_form.with_structured_output(form, method="json_schema").invoke(question["text"])
        assert found == json.loads(question["json"]), found
    print(f"LangChain: {len(table['questions'])} questions, the answers of the library")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
