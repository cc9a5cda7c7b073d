"""Is a text that was heard only the prompt again? Where next to nothing is said, Whisper writes on what it was told."""

from __future__ import annotations


def echoes(text: str, prompt: str | None) -> bool:
    """Whether a text is a stretch of the prompt, but for case, spaces and punctuation."""
    letters = _letters(text)
    return bool(letters) and letters in _letters(prompt or "")


class EchoGuard:
    """Holds the text of a streamed clip back for as long as it may be an echo."""

    def __init__(self, prompt: str | None) -> None:
        self._prompt = prompt
        self.held = ""

    def admit(self, piece: str) -> str:
        """Return what may be passed on: nothing, or all that was held and the next piece."""
        text = self.held + piece
        if self._prompt is not None and (echoes(text, self._prompt) or not _letters(text)):
            self.held = text
            return ""
        self.held, self._prompt = "", None
        return text


def _letters(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())
