"""What the engine raises: each exception carries the message that the program would print."""

from __future__ import annotations


class CalabiError(Exception):
    """Something could not be done. `str()` of it is the whole message, `help` the way out, where there is one."""

    def __init__(self, message: str, help: str | None = None) -> None:
        super().__init__(message)
        self.help = help

    def __reduce__(self) -> tuple[type[CalabiError], tuple[str, str | None]]:
        return type(self), (str(self), self.help)


class ConfigError(CalabiError, ValueError):
    """Settings ask for what cannot be: an unknown kind, a value out of range."""


class InputError(CalabiError, ValueError):
    """A model or a matrix cannot be used as it is."""


class DecomposeError(CalabiError, ValueError):
    """A matrix cannot be decomposed: it holds NaN, or its decomposition fails."""


class SelectError(CalabiError, ValueError):
    """No rank can be chosen; where a function in Python failed, its exception is the cause."""
