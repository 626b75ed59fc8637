#!/usr/bin/env python3
"""Checks that transformers loads, runs, saves and reloads what calabi writes, and never as random weights.

    torch-python tests/python/check_loading.py target/release/calabi-cli [FOLDER ...]

Tiny random checkpoints of seven families are compressed by the program, and each FOLDER (a checkpoint that calabi
factorized) is looked at too. What a model gives must be what the dense one gives with the factors multiplied out, and the
same bit for bit once it is saved and loaded by another process. Needs torch and transformers 5.
"""

import contextlib
import copy
import io
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
import torch
import transformers as hf
from make_tiny_models import FAMILIES, VOCABULARY, make
from safetensors import safe_open
from safetensors.torch import save_file
from transformers.pytorch_utils import Conv1D
from transformers.utils import is_accelerate_available

IDS = torch.randint(1, VOCABULARY, (2, 10), generator=torch.Generator().manual_seed(7))
F32 = dict(dtype=torch.float32)


def main():
    if sys.argv[1] == "--reload":
        return reload(*sys.argv[2:])
    program, folders = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:]
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        for seed, (name, (kind, config)) in enumerate(FAMILIES.items()):
            torch.manual_seed(seed)
            config._attn_implementation = "eager"
            with contextlib.redirect_stdout(io.StringIO()):
                make(work / name, kind(config).eval(), torch.float16 if name == "gpt2" else torch.bfloat16)
            check_family(program, work / name, kind)
        check_heads(program, work)
        check_biases(program, work)
        check_twice(program, work)
        check_conversions(program, work)
        check_own_code(program, work)
        check_untouched(program, work)
    for folder in folders:
        check_folder(pathlib.Path(folder))


def compress(program, folder, output=None, keep=0.6, layers=""):
    """Runs the program; gives the folder that it wrote."""
    output = output or folder.with_name(f"{folder.name}-small")
    pipeline = f'[model]\ninput = "{folder}"\noutput = "{output}"\n{layers}\n[rank]\nkind = "fraction"\nkeep = {keep}\n'
    recipe = output.with_suffix(".toml")
    recipe.write_text(pipeline)
    ran = subprocess.run([program, "run", recipe], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return output


def load(auto, folder, missing=(), unused=(), **kwargs):
    """Loads with trust: nothing is missing but new heads, nothing is left over but heads that are not asked for."""
    kwargs = dict(trust_remote_code=True) | kwargs
    model, info = auto.from_pretrained(folder, output_loading_info=True, **kwargs)
    beyond = lambda keys, allowed: [key for key in keys if not key.startswith(tuple(allowed))]
    assert not beyond(info["missing_keys"], missing), info["missing_keys"]
    assert not beyond(info["unexpected_keys"], unused), info["unexpected_keys"]
    assert not info["mismatched_keys"] and not info.get("error_msgs"), info
    return model


@torch.no_grad()
def given(model, ids=IDS):
    out = model(input_ids=ids.to(model.device))
    return out.logits if hasattr(out, "logits") else out.last_hidden_state


def described(folder):
    return json.loads((folder / "config.json").read_text())


def multiply_out(dense, folder):
    """Puts the product of the factors in `folder` in the place of each weight of the dense model."""
    config, layers = described(folder), 0
    files = [safe_open(path, "pt") for path in sorted(folder.glob("model*.safetensors"))]
    tensors = {key: file.get_tensor(key).float() for file in files for key in file.keys()}
    for name, rank in config["calabi"]["ranks"].items():
        left, right = tensors[f"{name}.left.weight"], tensors[f"{name}.right.weight"]
        assert left.shape[1] == right.shape[0] == rank, name
        layer = dense.get_submodule(name)
        product = left @ right
        layer.weight.data = (product.T if isinstance(layer, Conv1D) else product).to(layer.weight.dtype)
        if f"{name}.left.bias" in tensors:
            layer.bias = torch.nn.Parameter(tensors[f"{name}.left.bias"])
        layers += 1
    return layers


def check_same(wanted, got, bound=1e-5):
    error = float((got - wanted).abs().max() / wanted.abs().max())
    assert error < bound, error
    return error


def check_family(program, folder, kind):
    auto = hf.AutoModel if kind is hf.BertModel else hf.AutoModelForCausalLM
    small = compress(program, folder)
    dense = kind.from_pretrained(folder, **F32)
    before = given(dense)
    layers = multiply_out(dense, small)
    model = load(auto, small, **F32)
    assert type(model).__name__ == kind.__name__ and isinstance(model, kind)
    wanted = given(dense)
    error = check_same(wanted, given(model))
    assert (wanted - before).abs().max() > 1e-3 * before.abs().max(), "compression changed nothing"
    assert load(auto, small).dtype == kind.from_pretrained(folder).dtype, "the type of the file is the model's"
    if is_accelerate_available():
        assert torch.equal(given(load(auto, small, device_map="auto", **F32)), given(model))
    if model.can_generate():
        wanted = dense.generate(IDS, max_new_tokens=8, do_sample=False, pad_token_id=0)
        assert torch.equal(model.generate(IDS, max_new_tokens=8, do_sample=False, pad_token_id=0), wanted)
    check_reload(program, auto, small, model)
    check_refusals(auto, small, kind)
    check_training(auto, small)
    print(f"{folder.name}: {layers} layers, relative error {error:.1e}, saved and reloaded, refused without trust")


def check_reload(program, auto, small, model):
    """Saved and loaded by another process, the model gives the same bits, and calabi reads the folder."""
    saved = small.with_name(f"{small.name}-saved")
    model.save_pretrained(saved)
    before, after = described(small), described(saved)
    for key in ("model_type", "architectures", "auto_map"):
        assert before[key] == after[key], key
    assert before["calabi"]["ranks"] == after["calabi"]["ranks"] and after["dtype"] == "float32", after
    assert tensors_of(small) == tensors_of(saved)
    check_elsewhere(auto, saved, model)
    ran = subprocess.run([program, "inspect", saved], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def check_elsewhere(auto, saved, model):
    torch.save(given(model), saved / "given.pt")
    reloading = [sys.executable, __file__, "--reload", auto.__name__, saved]
    ran = subprocess.run(reloading, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def tensors_of(folder):
    return {key for path in folder.glob("model*.safetensors") for key in safe_open(path, "pt").keys()}


def reload(auto, saved):
    """In a process of its own: what was saved gives the same bits."""
    saved = pathlib.Path(saved)
    model = load(getattr(hf, auto), saved)
    assert torch.equal(given(model), torch.load(saved / "given.pt"))
    again = saved.with_name(f"{saved.name}-again")
    model.save_pretrained(again)
    assert torch.equal(given(load(getattr(hf, auto), again)), given(model))


def refused(message, call):
    try:
        call()
    except (ValueError, OSError) as error:
        assert message in str(error), error
    else:
        raise AssertionError("it loaded")


def check_refusals(auto, small, kind):
    """Without trust nothing loads, and no class that knows nothing of factors does."""
    for trust in (dict(trust_remote_code=False), {}):
        refused("trust_remote_code", lambda: auto.from_pretrained(small, **trust))
    refused("trust_remote_code=True", lambda: kind.from_pretrained(small))
    config = hf.AutoConfig.from_pretrained(small, trust_remote_code=True)
    refused("trust_remote_code=True", lambda: kind.from_pretrained(small, config=config))
    refused("trust_remote_code=True", lambda: auto.from_pretrained(small, config=config, trust_remote_code=False))


def check_training(auto, small):
    """Gradients reach all factors."""
    model = load(auto, small, **F32)
    out = model(input_ids=IDS)
    (out.logits if hasattr(out, "logits") else out.last_hidden_state).sum().backward()
    factors = [name for name, _ in model.named_parameters() if ".left." in name or ".right." in name]
    lost = [name for name in factors if model.get_parameter(name).grad is None]
    assert factors and not lost, lost


def check_heads(program, work):
    """Other Auto classes: the body alone, and other heads, with the prefix of names added or taken away."""
    small = work / "gpt2-small"
    body = load(hf.AutoModel, small, unused=["lm_head"], **F32)
    whole = load(hf.AutoModelForCausalLM, small, **F32)
    assert torch.equal(given(body), given(whole.transformer))
    check_prefix(program, hf.AutoModel, small, body)
    for name, auto, new in [
        ("llama", hf.AutoModelForSequenceClassification, ["score"]),
        ("bert", hf.AutoModelForMaskedLM, ["cls."]),
        ("bert", hf.AutoModelForSequenceClassification, ["classifier"]),
        ("bert", hf.AutoModelForTokenClassification, ["classifier"]),
    ]:
        small = work / f"{name}-small"
        model = load(auto, small, missing=new, unused=["lm_head", "pooler"], num_labels=3, pad_token_id=0, **F32)
        body = load(hf.AutoModel, small, unused=["lm_head"], **F32)
        assert torch.equal(given(model.base_model), given(body)), (name, auto)
        check_prefix(program, auto, small, model)
    refused("AutoModelForImageClassification", lambda: load(hf.AutoModelForImageClassification, small))
    print("heads: body alone, and four heads on bodies without")


def check_prefix(program, auto, small, model):
    """Saved under other names than it was read from, the model is what it was."""
    saved = small.with_name(f"{small.name}-{auto.__name__}")
    model.save_pretrained(saved)
    ranks = described(saved)["calabi"]["ranks"]
    assert all(f"{name}.right.weight" in tensors_of(saved) for name in ranks), ranks
    assert torch.equal(given(load(auto, saved)), given(model))


def check_biases(program, work):
    """Biases that make up for what was cut, in layers that have none; masked language models with a tied head."""
    layers = '[calibration]\ndata = "{}"\nobjective = "gram"\nbias = "residual"\n'
    data = work / "ids.npz"
    numpy.savez(data, input_ids=IDS.numpy())
    small = compress(program, work / "mistral", work / "mistral-biased", layers=layers.format(data))
    assert described(small)["calabi"]["biases"], "no bias was added"
    dense = hf.MistralForCausalLM.from_pretrained(work / "mistral", **F32)
    multiply_out(dense, small)
    model = load(hf.AutoModelForCausalLM, small, **F32)
    check_same(given(dense), given(model))
    check_reload(program, hf.AutoModelForCausalLM, small, model)
    config = copy.deepcopy(FAMILIES["bert"][1])
    masked = hf.BertForMaskedLM(config).eval()
    masked.save_pretrained(work / "masked")
    small = compress(program, work / "masked")
    multiply_out(masked, small)
    model = load(hf.AutoModelForMaskedLM, small, **F32)
    check_same(given(masked), given(model))
    check_reload(program, hf.AutoModelForMaskedLM, small, model)
    print("biases: added, and a masked language model's tied head")


def check_twice(program, work):
    """Factorized a second time, what transformers saved in between."""
    only = lambda part: f'[layers]\ninclude = ["*{part}*"]\n'
    first = compress(program, work / "qwen3", work / "qwen3-first", layers=only("mlp"))
    load(hf.AutoModelForCausalLM, first).save_pretrained(work / "qwen3-between")
    second = compress(program, work / "qwen3-between", work / "qwen3-second", layers=only("self_attn"))
    ranks = described(second)["calabi"]["ranks"]
    assert described(first)["calabi"]["ranks"].items() < ranks.items(), ranks
    assert described(first)["auto_map"] == described(second)["auto_map"]
    dense = hf.Qwen3ForCausalLM.from_pretrained(work / "qwen3", **F32)
    multiply_out(dense, second)
    check_same(given(dense), given(load(hf.AutoModelForCausalLM, second, **F32)))
    print("twice: one file, one map, all ranks")


def check_conversions(program, work):
    """Composite configurations, and names that transformers changes on loading and back on saving."""
    text = FAMILIES["gemma3"][1].to_dict()
    vision = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, image_size=28)
    vision |= dict(patch_size=14)
    config = hf.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    torch.manual_seed(1)
    dense = hf.Gemma3ForConditionalGeneration(config).eval()
    dense.save_pretrained(work / "composite")
    small = compress(program, work / "composite", layers='[layers]\ninclude = ["*proj*"]')
    ranks = described(small)["calabi"]["ranks"]
    for auto in (hf.AutoModelForImageTextToText, hf.AutoModelForCausalLM):
        native = auto.from_pretrained(work / "composite", **F32)
        model = load(auto, small, **F32)
        assert isinstance(model, type(native)), (type(model), type(native))
        factors = sum(1 for module in model.modules() if type(module).__name__ == "Factors")
        assert factors == len(ranks), (factors, len(ranks))
        state = {key: value for key, value in native.state_dict().items()}
        for path, module in model.named_modules():
            if type(module).__name__ == "Factors":
                state[f"{path}.weight"].copy_(module.weight)
        check_same(given(native), given(model))
        check_reload(program, auto, small, model)
    print(f"composite: {len(ranks)} layers of Gemma 3 with text and vision")


OWN_CONFIG = """from transformers import PretrainedConfig


class OwnConfig(PretrainedConfig):
    model_type = "own"

    def __init__(self, width=32, **kwargs):
        self.width = width
        super().__init__(**kwargs)
"""
OWN_MODEL = """import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .configuration_own import OwnConfig


class OwnModel(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = torch.nn.Embedding(80, config.width)
        self.proj = torch.nn.Linear(config.width, 2 * config.width)
        self.post_init()

    def forward(self, input_ids):
        return BaseModelOutput(last_hidden_state=self.proj(self.embed(input_ids)))
"""


def check_own_code(program, work):
    """A model with code of its own: its class comes out of its own file, which goes along."""
    folder = work / "own"
    folder.mkdir()
    (folder / "configuration_own.py").write_text(OWN_CONFIG)
    (folder / "modeling_own.py").write_text(OWN_MODEL)
    auto_map = {"AutoConfig": "configuration_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(dict(model_type="own", width=32, auto_map=auto_map)))
    torch.manual_seed(3)
    config = hf.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    dense = hf.AutoModel.from_config(config, trust_remote_code=True)
    save_file(dense.state_dict(), folder / "model.safetensors", {"format": "pt"})
    small = compress(program, folder)
    assert described(small)["calabi"]["auto_map"] == auto_map
    assert multiply_out(dense, small) == 1
    model = load(hf.AutoModel, small)
    check_same(given(dense), given(model))
    model.save_pretrained(work / "own-saved")
    check_elsewhere(hf.AutoModel, work / "own-saved", model)
    refused("trust_remote_code", lambda: hf.AutoModel.from_pretrained(small, trust_remote_code=False))
    print("own code: loaded, saved with its files, reloaded")


def check_untouched(program, work):
    """Where nothing is factorized the folder is what it was."""
    output = compress(program, work / "llama", work / "llama-untouched", keep=1.0)
    assert (output / "config.json").read_bytes() == (work / "llama/config.json").read_bytes()
    assert not (output / "modeling_calabi.py").exists()
    mapped = described(work / "llama-small")["auto_map"]
    known = {name for name in dir(hf) if name.startswith("AutoModel") and name != "AutoModelWithLMHead"}
    assert known <= mapped.keys(), known - mapped.keys()
    print(f"untouched where nothing is factorized; {len(known)} Auto classes elsewhere")


def check_folder(folder):
    """A real checkpoint: loads whole, generates, saves and reloads."""
    model = load(hf.AutoModelForCausalLM, folder)
    ids = torch.randint(10, 1000, (1, 16), generator=torch.Generator().manual_seed(7))
    print(folder, model.generate(ids, max_new_tokens=12, do_sample=False)[0, 16:].tolist())
    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        assert torch.equal(given(load(hf.AutoModelForCausalLM, saved), ids), given(model, ids))


if __name__ == "__main__":
    main()
