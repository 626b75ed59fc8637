"""A model of transformers with factors becomes what `from_pretrained` gives of a compressed checkpoint."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn


def as_factorized(model: nn.Module) -> None:
    """Makes `save_pretrained` of every model of transformers in this one write the checkpoint that calabi writes.

    `replace_linear_layers` does so; call it where layers were replaced by hand.
    """
    transformers = sys.modules.get("transformers")
    if transformers is None:
        return
    for part in model.modules():
        if isinstance(part, transformers.PreTrainedModel):
            _as_factorized(part)


def _as_factorized(model: Any) -> None:
    from . import modeling_calabi as modelling

    names = [name for name, module in model.named_modules() if getattr(module, "has_factors", False)]
    if not names:
        return
    if not hasattr(model, "factorized"):
        # The configuration is changed where it is: the model's parts hold it too.
        config: Any = model.config
        base: Any = type(model)
        of_config: Any = type(config)
        if not hasattr(config, "calabi"):
            config.calabi, config.auto_map = _said(config)
            config.__class__ = modelling.factorized_config_class(of_config)
        model.__class__ = modelling.factorized_model_class(base)
    added = [name for name in names if getattr(model.get_submodule(name), "added_bias", False)]
    if added:
        model.config.calabi = model.config.calabi | {"added_biases": added}
    known = getattr(model, "factorized", {})
    model.factorized = {name: known.get(name, name) for name in names}
    model.all_tied_weights_keys = model.still_tied(model.all_tied_weights_keys)


def _said(config: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """What the configuration says under `calabi`, and under `auto_map`."""
    from . import modeling_calabi as modelling
    from .loading import auto_classes

    ours = {"AutoConfig": "modeling_calabi.CalabiConfig"}
    ours |= {name: f"modeling_calabi.Calabi{name.removeprefix('Auto')}" for name in auto_classes()}
    former = getattr(config, "auto_map", None) or {}
    others = {key: value for key, value in former.items() if key not in ours}
    own = {key: value for key, value in former.items() if key in ours}
    calabi = {"version": modelling.VERSION, "base_model_type": config.model_type, "ranks": {}}
    return calabi | ({"auto_map": own} if own else {}), ours | others
