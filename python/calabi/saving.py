"""A model of transformers with factors becomes what `from_pretrained` gives of a compressed checkpoint."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from .low_rank import LowRankLinear


def as_factorized(model: nn.Module) -> None:
    """Makes `model.save_pretrained` write the checkpoint that calabi writes, where the model is of transformers."""
    transformers = sys.modules.get("transformers")
    if transformers is None or not isinstance(model, transformers.PreTrainedModel):
        return
    from . import modeling_calabi as modelling

    kinds = (LowRankLinear, modelling.Factors)
    names = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    if not names:
        return
    if not hasattr(model, "factorized"):
        model.config = modelling.factorized_config(model.config, *_said(model.config))
        base: Any = type(model)
        model.__class__ = modelling.factorized_model_class(base)
    added = [name for name in names if getattr(model.get_submodule(name), "added_bias", False)]
    if added:
        model.config.calabi = model.config.calabi | {"added_biases": added}
    model.factorized = {name: model.factorized.get(name, name) if hasattr(model, "factorized") else name for name in names}
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
