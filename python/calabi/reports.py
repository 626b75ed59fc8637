"""What a run did, as objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


class Record:
    """Values by name: `record.name`, or `record["name"]`."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = {name: _record(value) for name, value in values.items()}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._values:
            known = ", ".join(self.__dict__.get("_values", ()))
            raise AttributeError(f"{type(self).__name__} has no {name}: it has {known}")
        return self._values[name]

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._values]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"


class Change(Record):
    """A figure before and after."""

    before: int
    after: int


class LayerReport(Record):
    """What became of a layer."""

    name: str
    shape: list[int]
    outcome: str
    """`"factorized"`, `"dense"` or `"skipped"`."""
    rank: int | None
    because: str
    """Which rule bound, or why the layer was left alone."""
    break_even: int
    parameters: Change
    predicted_error: float | None
    measured_error: float | None


class Report(Record):
    """What a run did: the program's report. `str()` of it is the table that the program prints."""

    parameters: Change
    """Parameters of the whole model."""
    bytes: Change
    """The size of its files."""
    warnings: list[str]
    seconds: float
    output: str

    def __init__(self, passed: bool, text: str, table: str) -> None:
        said = json.loads(text)
        self._layers = [LayerReport(layer) for layer in said.pop("layers")]
        super().__init__(said)
        self._values["layers"] = self._layers
        self._passed, self._table, self._json = passed, table, text

    @property
    def passed(self) -> bool:
        """Whether the gates of `verify` are met; else the model is at `output`, not in its place."""
        return self._passed

    @property
    def layers(self) -> list[LayerReport]:
        """Every layer, with what became of it."""
        return self._layers

    @property
    def factorized(self) -> list[LayerReport]:
        """The layers that factors stand for."""
        return [layer for layer in self._layers if layer.outcome == "factorized"]

    @property
    def removed(self) -> float:
        """The share of the model's parameters that is gone."""
        return 1.0 - self.parameters.after / max(1, self.parameters.before)

    def json(self) -> str:
        """The report as `calabi-cli run --format json` prints it."""
        return self._json

    def __len__(self) -> int:
        return len(self.factorized)

    def __str__(self) -> str:
        return self._table

    def __repr__(self) -> str:
        count, output = len(self.factorized), self.output
        return f"Report({count} of {len(self.layers)} layers factorized, {self.removed:.1%} removed, {output})"


def _record(value: Any) -> Any:
    if isinstance(value, dict):
        return Change(value) if set(value) == {"before", "after"} else Record(value)
    if isinstance(value, list):
        return [_record(item) for item in value]
    return value
