"""Loads a checkpoint in which calabi factorized linear layers, with transformers 5:

    AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)

or any other Auto class that fits the architecture. Configuration and model are the dense architecture's own, as
transformers knows it (or as code beside this file defines it); each layer that `config.json` ranks under `calabi`
is two linear layers: `right` (rank × inputs), then `left` (outputs × rank).
"""

import copy
import functools
import json
import os
import pathlib
import shutil
import tempfile

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PretrainedConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    rename_source_key,
    revert_weight_conversion,
)
from transformers.dynamic_module_utils import custom_object_save, get_class_from_dynamic_module
from transformers.pytorch_utils import Conv1D

VERSION = 1
# What a class that knows nothing of factors trips over, before it would start from random weights.
WEIGHTS = "factors: load them with an Auto class and trust_remote_code=True"
DENSE = (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear, Conv1D)
# Linear layers under a name of their own.
NAMED = ("FalconLinear",)


class Factors(nn.Module):
    """Two linear layers in the place of one."""

    has_factors = True

    def __init__(self, dense, rank, bias):
        super().__init__()
        self.transposed = isinstance(dense, Conv1D)
        inputs, outputs = dense.weight.shape if self.transposed else reversed(dense.weight.shape)
        like = {"device": dense.weight.device, "dtype": dense.weight.dtype}
        self.right = nn.Linear(inputs, rank, bias=False, **like)
        self.left = nn.Linear(rank, outputs, bias=bias or dense.bias is not None, **like)
        self.in_features, self.out_features = inputs, outputs

    def forward(self, x):
        return self.left(self.right(x))

    @property
    def weight(self):
        """The dense layer's weight, for code that asks for it."""
        product = self.left.weight @ self.right.weight
        return product.T if self.transposed else product

    @property
    def bias(self):
        return self.left.bias


class HasRanks(type):
    """A configuration that brings ranks along counts as one of calabi's, whatever its own class."""

    def __instancecheck__(cls, instance):
        return hasattr(instance, "calabi")


class CalabiConfig(metaclass=HasRanks):
    """What AutoConfig calls. It gives the dense architecture's configuration, which brings the ranks along."""

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoConfig"):
        """Nothing to note: the configuration names this file itself where it is saved."""

    @classmethod
    def from_pretrained(cls, folder, return_unused_kwargs=False, **kwargs):
        said, kwargs = PretrainedConfig.get_config_dict(folder, **kwargs)
        return cls.from_dict(said, return_unused_kwargs, **(kwargs | {"name_or_path": folder}))

    @classmethod
    def from_dict(cls, said, return_unused_kwargs=False, name_or_path="", **kwargs):
        """Of what `config.json` says."""
        said = dict(said)
        calabi, auto_map = said.pop("calabi"), said.pop("auto_map")
        if calabi["version"] != VERSION:
            raise ValueError(f"calabi's version is {calabi['version']}: this file knows {VERSION}")
        said.pop("transformers_weights", None)
        said["model_type"] = calabi["base_model_type"]
        reader = AutoConfig
        if reference := calabi.get("auto_map", {}).get("AutoConfig"):
            reader = get_class_from_dynamic_module(reference, name_or_path)
        with tempfile.TemporaryDirectory() as place:
            pathlib.Path(place, "config.json").write_text(json.dumps(said), encoding="utf-8")
            config, unused = reader.from_pretrained(place, return_unused_kwargs=True, **kwargs)
        config.name_or_path = name_or_path
        config = factorized_config(config, calabi, auto_map)
        return (config, unused) if return_unused_kwargs else config


def factorized_config(dense, calabi, auto_map):
    """A configuration that knows the ranks, of a dense architecture's."""
    config = copy.deepcopy(dense)
    config.__class__ = factorized_config_class(type(dense))
    config.calabi = calabi | {"base_model_type": dense.model_type or calabi["base_model_type"]}
    config.auto_map = auto_map
    return config


@functools.cache
def factorized_config_class(base):
    """The class under the base's own name: by this name transformers finds what goes with it."""

    class Factorized(base):
        _auto_class = None
        # Read where weights are looked for; this file's own models set it to none.
        transformers_weights = WEIGHTS

        def dense(self):
            """The dense architecture's configuration again."""
            config = copy.deepcopy(self)
            config.__class__ = base
            former = config.__dict__.pop("calabi").get("auto_map")
            config.auto_map = former or {}
            return config

        def __reduce_ex__(self, protocol):
            return made_again, (factorized_config_class, base), self.__dict__.copy()

        def to_dict(self):
            return super().to_dict() | {"model_type": "calabi", "transformers_weights": WEIGHTS}

        def save_pretrained(self, folder, *args, **kwargs):
            os.makedirs(folder, exist_ok=True)
            shutil.copyfile(__file__, pathlib.Path(folder, "modeling_calabi.py"))
            save_code(base, folder)
            super().save_pretrained(folder, *args, **kwargs)

    return named_as(Factorized, base)


class Loader:
    """What an Auto class calls: the class that it takes for the dense model, with factors."""

    auto = None

    @classmethod
    def register_for_auto_class(cls, auto_class):
        """Nothing to note: the configuration names this file itself where it is saved."""

    @classmethod
    def from_pretrained(cls, folder, *args, config=None, **kwargs):
        if not isinstance(config, PretrainedConfig):
            config, kwargs = CalabiConfig.from_pretrained(config or folder, return_unused_kwargs=True, **kwargs)
        model, config = cls.choose(config)
        return model.from_pretrained(folder, *args, config=config, **kwargs)

    @classmethod
    def _from_config(cls, config, **kwargs):
        model, config = cls.choose(config)
        return model._from_config(config, **kwargs)

    @classmethod
    def choose(cls, config):
        """The model's class and its configuration: a part of the whole, where the language model alone is asked for."""
        with torch.device("meta"):
            dense = cls.auto.from_config(config.dense(), trust_remote_code=True)
        if type(dense.config) is not type(config.dense()):
            config = factorized_config(dense.config, config.calabi, config.auto_map)
        return factorized_model_class(type(dense)), config


def __getattr__(name):
    """`CalabiModelForCausalLM` is what AutoModelForCausalLM loads, and so on for all Auto classes."""
    auto = getattr(transformers, name.replace("Calabi", "Auto", 1), None) if name.startswith("CalabiModel") else None
    if auto is None:
        raise AttributeError(f"{name}: transformers {transformers.__version__} has no Auto class for it")
    return type(name, (Loader,), {"auto": auto, "__module__": __name__})


@functools.cache
def factorized_model_class(base):
    """The dense architecture's class, with factors in the place of layers."""

    class Factorized(base):
        config_class = CalabiConfig
        _auto_class = None

        def __init__(self, config, *args, **kwargs):
            super().__init__(config, *args, **kwargs)
            calabi, self.factorized = config.calabi, {}
            for name, path in places(self, calabi["ranks"]):
                factorize(self, path, calabi["ranks"][name], name in calabi.get("biases", ()))
                self.factorized[path] = name
            self.all_tied_weights_keys = self.still_tied(self.all_tied_weights_keys)

        def __reduce_ex__(self, protocol):
            return made_again, (factorized_model_class, base), self.__dict__.copy()

        @classmethod
        def from_pretrained(cls, folder, *args, config=None, output_loading_info=False, **kwargs):
            if kwargs.get("tp_plan") or kwargs.get("tp_size") or kwargs.get("distributed_config"):
                raise NotImplementedError("factors are not split over devices: leave tp_plan and its like out")
            if not isinstance(config, PretrainedConfig):
                config, kwargs = CalabiConfig.from_pretrained(config or folder, return_unused_kwargs=True, **kwargs)
            config = copy.deepcopy(config)
            config.transformers_weights = None
            model, info = super().from_pretrained(folder, *args, config=config, output_loading_info=True, **kwargs)
            del model.config.transformers_weights
            model.check_loaded(info)
            return (model, info) if output_loading_info else model

        def check_loaded(self, info):
            """Every factor comes out of the file, none is left over, and none is there of a layer that is not ranked."""
            unexpected = [key for key in map(str, info["unexpected_keys"]) if ".left." in key or ".right." in key]
            missing = [key.removesuffix("weight") for key in map(str, info["missing_keys"])]
            if unranked := sorted(owner for owner in missing if any(key.startswith(owner) for key in unexpected)):
                raise RuntimeError(f"factors of layers that config.json does not rank: {unranked[:3]}")
            owners = [*self.factorized, *self.factorized.values()]
            of_factors = lambda key: any(key.startswith(f"{owner}.") for owner in owners)
            for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
                if wrong := sorted(filter(of_factors, map(str, info[what]))):
                    raise RuntimeError(f"{len(wrong)} factors do not fit {base.__name__} ({what}): {wrong[:3]}")

        def get_expanded_tied_weights_keys(self, *args, **kwargs):
            return self.still_tied(super().get_expanded_tied_weights_keys(*args, **kwargs))

        def still_tied(self, tied):
            """Which tensors are one: a layer with factors has a weight of its own, and its bias moved."""
            kept = {}
            for target, source in tied.items():
                (_, of_target), (owner, of_source) = self.moved(target), self.moved(source)
                if of_target and of_source:
                    kept[of_target] = of_source
                elif of_target:
                    raise NotImplementedError(f"{target} is tied to {owner}, which is factorized")
            return kept

        def moved(self, key):
            """Where a dense model's tensor is now: the layer with factors, and the tensor, if there is one still."""
            owner, _, last = key.rpartition(".")
            if owner not in getattr(self, "factorized", ()):
                return None, key
            return owner, f"{owner}.left.bias" if last == "bias" else None

        def save_pretrained(self, folder, *args, save_original_format=True, **kwargs):
            """Saves with the ranks under the names that the layers have in the files."""
            layers = [name for name, module in self.named_modules() if getattr(module, "has_factors", False)]
            self.factorized = {path: self.factorized.get(path, path) for path in layers}
            state = {key: value for key, value in self.state_dict().items() if self.is_factor(key)}
            if save_original_format:
                state = revert_weight_conversion(self, state)
            layers = [key.removesuffix(".right.weight") for key in state if key.endswith(".right.weight")]
            ranks = {name: state[f"{name}.right.weight"].shape[0] for name in layers}
            biases = [name for name in layers if f"{name}.left.bias" in state]
            self.config.calabi = self.config.calabi | {"ranks": ranks, "biases": biases}
            save_code(base, folder)
            super().save_pretrained(folder, *args, save_original_format=save_original_format, **kwargs)

        def is_factor(self, key):
            return key.rsplit(".", 2)[0] in self.factorized

        @classmethod
        def is_remote_code(cls):
            return False

        @classmethod
        def is_custom_code(cls):
            """No: the checkpoint's names are changed on loading as the dense architecture's are."""
            return base.is_custom_code()

    return named_as(Factorized, base)


def places(model, names):
    """Each of these layers of the checkpoint that the model has, with its path there."""
    state = model.state_dict()
    changes = get_model_conversion_mapping(model)
    renamings = [change for change in changes if isinstance(change, WeightRenaming)]
    converters = [change for change in changes if isinstance(change, WeightConverter)]
    for name in names:
        key = f"{name}.weight"
        found, _ = rename_source_key(key, renamings, converters, model.base_model_prefix, state)
        if found not in state and key in state:
            found = key
        if found in state:
            yield name, found.removesuffix(".weight")


def factorize(model, path, rank, bias):
    """Puts factors in the place of a layer."""
    parent, _, last = path.rpartition(".")
    parent = model.get_submodule(parent)
    dense = getattr(parent, last)
    if type(dense) not in DENSE and type(dense).__name__ not in NAMED:
        kind = type(dense).__name__
        raise TypeError(f"{path} is a {kind}, which cannot have factors: exclude it in calabi's pipeline")
    setattr(parent, last, Factors(dense, rank, bias))


def save_code(base, folder):
    """Copies the code that defines a class, where it is not transformers' own."""
    if not base.__module__.startswith("transformers."):
        os.makedirs(folder, exist_ok=True)
        custom_object_save(base, folder)


def made_again(maker, base):
    """An empty object of a class that is made: how such objects are copied and pickled."""
    kind = maker(base)
    return kind.__new__(kind)


def named_as(made, base):
    made.__name__ = made.__qualname__ = base.__name__
    return made
