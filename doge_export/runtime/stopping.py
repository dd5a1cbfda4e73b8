"""Stop strings: end an answer at the first of some texts, although the text comes in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes text through until a stop string appears; keeps back the end of the text while one may be starting.

    stop: the strings, none empty. The stop string and all behind it never come out.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """Take the next piece; the text that is now certain to belong to the answer."""
        if self.found:
            return ""
        text = self._held + piece
        starts = [start for stop in self._stop if (start := text.find(stop)) >= 0]
        if starts:
            self.found = True
            self._held = ""
            return text[: min(starts)]
        certain = len(text) - self._possible_start(text)
        self._held = text[certain:]
        return text[:certain]

    def completed_by(self, piece: str) -> bool:
        """Whether a stop string would be found if `piece` came next; nothing is taken in."""
        text = self._held + piece
        return any(stop in text for stop in self._stop)

    def finish(self) -> str:
        """The text kept back, to be called when no more will come."""
        rest, self._held = self._held, ""
        return rest

    def _possible_start(self, text: str) -> int:
        """Length of the longest end of `text` with which a stop string begins."""
        longest = min(len(text), max((len(stop) - 1 for stop in self._stop), default=0))
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0
