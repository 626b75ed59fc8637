"""How a run shows what it does: bars where tqdm is installed, else lines on stderr."""

from __future__ import annotations

import sys
from typing import Any, Protocol


class Progress(Protocol):
    """What a run tells of itself, from threads of its own. An exception in it ends the run, and comes out of it."""

    def begin(self, stage: str, steps: int) -> None:
        """A stage of so many layers begins."""

    def step(self, stage: str, layer: str) -> None:
        """A layer of the stage is done."""

    def note(self, stage: str, line: str) -> None:
        """A line about how a stage goes."""

    def end(self, stage: str) -> None:
        """The stage is done."""


class Lines:
    """A line for every layer on stderr."""

    def __init__(self) -> None:
        self.done, self.steps = 0, 0

    def begin(self, stage: str, steps: int) -> None:
        self.done, self.steps = 0, steps

    def step(self, stage: str, layer: str) -> None:
        self.done += 1
        if layer:
            print(f"{stage} {self.done}/{self.steps} {layer}", file=sys.stderr)

    def note(self, stage: str, line: str) -> None:
        print(f"{stage} {line}", file=sys.stderr)

    def end(self, stage: str) -> None:
        pass


class Bars:
    """A bar for every stage, by tqdm."""

    def __init__(self, tqdm: Any) -> None:
        self.tqdm, self.bar = tqdm, None

    def begin(self, stage: str, steps: int) -> None:
        self.bar = self.tqdm(total=steps or None, desc=stage, leave=False)

    def step(self, stage: str, layer: str) -> None:
        if self.bar is not None:
            self.bar.update()

    def note(self, stage: str, line: str) -> None:
        self.tqdm.write(f"{stage} {line}", file=sys.stderr)

    def end(self, stage: str) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def observer(progress: bool | Progress | None) -> Progress | None:
    """What watches a run: an object of one's own; `True` for a bar or lines; `None` for a bar on a terminal."""
    if progress is None:
        return _bars() if sys.stderr is not None and sys.stderr.isatty() else None
    if progress is True:
        return _bars() or Lines()
    return progress or None


def _bars() -> Bars | None:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return Bars(tqdm)
