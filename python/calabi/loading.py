"""Registers the checkpoints that calabi writes with transformers, once that is imported: they load without code of theirs.

`import calabi` is enough: `AutoModelForCausalLM.from_pretrained(folder)` then loads a compressed checkpoint.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from types import ModuleType
from typing import Any

MODEL_TYPE = "calabi"
_CONFIGURATIONS = "transformers.models.auto.configuration_auto"


def install() -> None:
    """Registers the format, now or when transformers is imported."""
    if (loaded := sys.modules.get(_CONFIGURATIONS)) is not None:
        _register(loaded)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class CalabiConfig:
    """What AutoConfig takes for the configuration of a compressed checkpoint."""

    @classmethod
    def from_dict(cls, said: dict[str, Any], **kwargs: Any) -> Any:
        """The dense architecture's configuration, which brings the ranks along.

        Raises:
            ValueError: the architecture is code in the checkpoint, which nobody said to trust.
        """
        from . import modeling_calabi as modelling

        folder = kwargs.get("name_or_path", "")
        if said.get("calabi", {}).get("auto_map"):
            raise ValueError(
                f"the architecture of {folder} is code of its own. If you trust it: config = "
                "calabi.modeling_calabi.CalabiConfig.from_pretrained(folder), then from_pretrained(folder, "
                "config=config, trust_remote_code=True)"
            )
        made = modelling.CalabiConfig.from_dict(said, **kwargs)
        _enter(type(made[0] if isinstance(made, tuple) else made))
        return made


def auto_classes() -> dict[str, Any]:
    """The Auto classes of models, by name."""
    from transformers.models.auto import modeling_auto

    found = {name: getattr(modeling_auto, name) for name in dir(modeling_auto) if name.startswith("AutoModel")}
    return {name: auto for name, auto in found.items() if getattr(auto, "_model_mapping", None) is not None}


def _register(configurations: ModuleType) -> None:
    configurations.CONFIG_MAPPING.register(MODEL_TYPE, CalabiConfig, exist_ok=True)


def _enter(kind: type) -> None:
    """Makes every Auto class load factors where a configuration is of this class."""
    from . import modeling_calabi as modelling

    for name, auto in auto_classes().items():
        if kind not in auto._model_mapping._extra_content:
            loader = getattr(modelling, name.replace("Auto", "Calabi", 1))
            auto._model_mapping.register(kind, loader, exist_ok=True)


class _Finder(importlib.abc.MetaPathFinder):
    """Waits for the module of transformers that knows configurations."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """The module's own, with a loader that registers the format after."""
        if fullname != _CONFIGURATIONS:
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next((spec for finder in others if (spec := finder.find_spec(fullname, path, target))), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
        _register(module)
