"""A request that is not taken: nothing of it is kept."""

from __future__ import annotations


class Refused(Exception):
    """The HTTP status, a word for programs and a sentence for people; `retry_after` in seconds, when it may pass."""

    def __init__(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after
