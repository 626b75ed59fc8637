"""Checkpoints: compressed, loaded without code of theirs, trained, saved and loaded again, for four families."""

import json
import pathlib
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")
import numpy as np  # noqa: E402
from safetensors import safe_open  # noqa: E402

import calabi  # noqa: E402

IDS = torch.randint(1, 80, (2, 10), generator=torch.Generator().manual_seed(7))
FAMILIES = ["llama", "gpt2", "bert", "qwen3"]
MODELS = pathlib.Path(__file__).parents[2] / "calabi-nn/tests/models"
F32 = {"dtype": torch.float32}


@torch.no_grad()
def given(model):
    out = model.eval()(input_ids=IDS.to(model.device))
    return out.logits if hasattr(out, "logits") else out.last_hidden_state


def auto(family):
    return hf.AutoModel if family == "bert" else hf.AutoModelForCausalLM


def multiplied_out(dense, folder):
    """The dense model with the product of the factors for weights."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = [key.removesuffix(".right.weight") for key in file.keys() if key.endswith(".right.weight")]
        for name in names:
            product = file.get_tensor(f"{name}.left.weight").float() @ file.get_tensor(f"{name}.right.weight").float()
            path = name if name in dict(dense.named_modules()) else f"{dense.base_model_prefix}.{name}"
            layer = dense.get_submodule(path)
            layer.weight.data = product.T.contiguous() if type(layer).__name__ == "Conv1D" else product
    return len(names)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_loads_without_code_of_its_own(family, tmp_path):
    small = tmp_path / "small"
    sections = {"rank": {"kind": "fraction", "keep": 0.6}, "layers": {"multiple": 1, "break_even": False}}
    calabi.run({"model": {"input": MODELS / family, "output": small}} | sections)
    model, info = auto(family).from_pretrained(small, output_loading_info=True, **F32)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    dense = auto(family).from_pretrained(MODELS / family, **F32)
    assert isinstance(model, type(dense)) and "transformers_modules" not in type(model).__module__
    assert multiplied_out(dense, small) >= 8
    torch.testing.assert_close(given(model), given(dense), rtol=1e-4, atol=1e-4)
    # Saved and loaded again, with the names of the file, also where no calabi is imported but its code is trusted.
    saved = tmp_path / "saved"
    model.save_pretrained(saved)
    assert keys(saved) == keys(small)
    assert torch.equal(given(auto(family).from_pretrained(saved)), given(model))
    assert torch.equal(elsewhere(auto(family), saved, trust=True), given(model))


def keys(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


def elsewhere(kind, folder, trust, importing=""):
    """What the model gives in a process that imports no calabi."""
    out = folder.with_name("given.pt")
    trusted = ", trust_remote_code=True" if trust else ""
    code = (
        f"{importing}\nimport torch, transformers\n"
        f"model = transformers.{kind.__name__}.from_pretrained({str(folder)!r}{trusted})\n"
        f"ids = torch.tensor({IDS.tolist()})\nwith torch.no_grad(): out = model.eval()(input_ids=ids)\n"
        f"torch.save(out.logits if hasattr(out, 'logits') else out.last_hidden_state, {str(out)!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return torch.load(out)


def test_without_the_import_it_fails_loudly(tmp_path):
    small = tmp_path / "small"
    calabi.compress_hf_model(MODELS / "llama", 0.5, output=small)
    with pytest.raises(subprocess.CalledProcessError) as failed:
        elsewhere(hf.AutoModelForCausalLM, small, trust=False)
    assert "trust_remote_code" in failed.value.stderr
    with pytest.raises(subprocess.CalledProcessError) as failed:
        elsewhere(hf.LlamaForCausalLM, small, trust=False, importing="import calabi")
    assert "factors" in failed.value.stderr
    for importing in ("import calabi", "import transformers, calabi", "import transformers.models.auto, calabi"):
        assert elsewhere(hf.AutoModelForCausalLM, small, trust=False, importing=importing).shape == (2, 10, 80)


def test_code_of_an_architecture_is_not_run_untrusted(tmp_path):
    small = tmp_path / "small"
    calabi.compress_hf_model(MODELS / "llama", 0.5, output=small)
    said = json.loads((small / "config.json").read_text())
    said["calabi"]["auto_map"] = {"AutoConfig": "evil.Config"}
    (small / "config.json").write_text(json.dumps(said))
    (small / "evil.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(ValueError, match="code of its own. If you trust it"):
        hf.AutoModelForCausalLM.from_pretrained(small)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_in_memory_are_saved_as_the_program_saves_them(family, tmp_path):
    dense = auto(family).from_pretrained(MODELS / family, **F32)
    count = len([m for m in dense.modules() if type(m).__name__ in ("Linear", "Conv1D")])
    report = calabi.replace_linear_layers(dense, {"kind": "fraction", "keep": 0.6}, break_even=False)
    has_head = dense.get_output_embeddings() is not None
    assert len(report) == count - has_head
    dense.save_pretrained(tmp_path / "saved")
    again = auto(family).from_pretrained(tmp_path / "saved")
    assert torch.equal(given(again), given(dense))
    assert torch.equal(elsewhere(auto(family), tmp_path / "saved", trust=True), given(dense))
    # The program reads it, and would write the same layers.
    theirs = calabi.run({
        "model": {"input": MODELS / family, "output": tmp_path / "theirs"},
        "layers": {"multiple": 1, "break_even": False, "exclude": ["lm_head"]},
        "rank": {"kind": "fraction", "keep": 0.6},
    })
    assert keys(tmp_path / "saved") == keys(pathlib.Path(theirs.output))
    ran = calabi.run({
        "model": {"input": tmp_path / "saved", "output": tmp_path / "twice"}, "rank": {"kind": "fixed", "rank": 2},
        "layers": {"multiple": 1, "on_error": "dense"},
    }) if has_head and family in ("llama", "qwen3") else None
    assert ran is None or ran.passed


def test_in_memory_and_in_files_give_the_same(tmp_path):
    settings = {"keep": 0.5, "exclude": ["*.v_proj"]}
    files = calabi.compress_hf_model(MODELS / "llama", output=tmp_path / "small", **settings, **F32)
    memory = hf.AutoModelForCausalLM.from_pretrained(MODELS / "llama", **F32)
    report = calabi.replace_linear_layers(memory, multiple=8, **settings)
    ranks = {layer.name: layer.rank for layer in report.layers if layer.rank}
    assert ranks == {layer.name: layer.rank for layer in files.calabi_report.factorized}
    # Files hold 16 bits.
    assert (given(files) - given(memory)).norm() < 2e-2 * given(memory).norm()


def test_calibration_on_batches_is_worth_it(tmp_path):
    torch.manual_seed(1)
    batches = [{"input_ids": torch.randint(1, 80, (8, 12))} for _ in range(8)]
    dense = hf.AutoModelForCausalLM.from_pretrained(MODELS / "llama", **F32)

    def error(**settings):
        model = calabi.compress_hf_model(MODELS / "llama", rank=8, **settings, **F32)
        assert len(model.calabi_report) == 14
        return (given(model) - given(dense)).norm().item()

    assert error(calibrate=batches, calibration={"bias": "residual"}) < 0.9 * error()
    statistics = tmp_path / "statistics.safetensors"
    calabi.save_statistics(calabi.calibrate(dense, batches), statistics, data="random")
    assert error(calibration={"statistics": statistics, "bias": "residual"}) < 0.9 * error()


def test_statistics_have_the_names_of_the_file():
    batches = [{"input_ids": torch.randint(1, 80, (8, 12))}]
    model = calabi.compress_hf_model(MODELS / "gpt2", rank=8, calibrate=batches, **F32)
    assert len(model.calabi_report) == 8


def test_factors_train(tmp_path):
    model = calabi.compress_hf_model(MODELS / "llama", 0.5, **F32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        factors = [p for name, p in model.named_parameters() if ".left." in name or ".right." in name]
        assert factors and all(p.grad is not None for p in factors)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    model.save_pretrained(tmp_path / "trained")
    assert torch.equal(given(hf.AutoModelForCausalLM.from_pretrained(tmp_path / "trained")), given(model))


def test_a_name_is_found_in_the_cache(bert_in_cache):
    model = calabi.compress_hf_model("bert-base-uncased", rank=8)
    assert type(model).__name__ == "BertForMaskedLM" and len(model.calabi_report) == 13
    body = calabi.compress_hf_model("bert-base-uncased", rank=8, auto_class=hf.AutoModel)
    assert type(body).__name__ == "BertModel"
    with pytest.raises(OSError):
        calabi.compress_hf_model("nobody/nothing", rank=8)


def test_wrong_calls_are_exceptions(tmp_path):
    with pytest.raises(calabi.ConfigError, match="either rank= or compression_ratio="):
        calabi.compress_hf_model(MODELS / "llama")
    with pytest.raises(calabi.ConfigError, match="give one of"):
        calabi.compress_hf_model(MODELS / "llama", 0.5, keep=0.5)
    with pytest.raises(calabi.ConfigError, match="did you mean `energy`"):
        calabi.compress_hf_model(MODELS / "llama", rank={"kind": "energie"})
    with pytest.raises(calabi.CalabiError):
        calabi.compress_hf_model(tmp_path, 0.5)


def llama():
    return hf.AutoModelForCausalLM.from_pretrained(MODELS / "llama", **F32)


def test_factors_are_not_factorized_again(tmp_path):
    model = llama()
    calabi.replace_linear_layers(model, 8, include=["*.q_proj"])
    report = calabi.replace_linear_layers(model, 4, break_even=False)
    assert len(report) == 12 and {layer.because for layer in report.layers if layer.name.endswith("q_proj")} == {
        "has factors already"
    }
    model.save_pretrained(tmp_path / "saved")
    again = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(given(again), given(model))
    assert len(calabi.replace_linear_layers(again, 4)) == 0


class Wrapper(torch.nn.Module):
    def __init__(self, lm):
        super().__init__()
        self.lm = lm


@pytest.mark.parametrize("whole", [Wrapper, torch.nn.DataParallel, lambda model: model])
def test_a_model_within_a_model_saves_its_factors(whole, tmp_path):
    model = llama()
    calabi.replace_linear_layers(whole(model), 8)
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(given(hf.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")), given(model))
    model.model.save_pretrained(tmp_path / "body")
    body = hf.AutoModel.from_pretrained(tmp_path / "body")
    assert torch.equal(given(body), given(model.model))


def test_layers_replaced_by_hand_are_saved(tmp_path):
    model = llama()
    attention = model.model.layers[0].self_attn
    attention.q_proj = calabi.LowRankLinear(attention.q_proj, 8)
    calabi.as_factorized(model)
    attention.k_proj = calabi.LowRankLinear(attention.k_proj, 8)
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(given(hf.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")), given(model))


def test_factors_that_are_not_ranked_do_not_load(tmp_path):
    model = llama()
    calabi.replace_linear_layers(model, 8)
    model.save_pretrained(tmp_path / "saved")
    said = json.loads((tmp_path / "saved/config.json").read_text())
    said["calabi"]["ranks"].popitem()
    (tmp_path / "saved/config.json").write_text(json.dumps(said))
    with pytest.raises(RuntimeError, match="does not rank"):
        hf.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")


def test_the_configuration_stays_that_of_the_layers():
    model = llama()
    calabi.replace_linear_layers(model, 8)
    model.config.use_cache = False
    assert model(input_ids=IDS).past_key_values is None and model.config is model.model.config


def test_models_can_be_copied_and_pickled(tmp_path):
    import copy

    model = llama()
    calabi.replace_linear_layers(model, 8)
    loaded = calabi.compress_hf_model(MODELS / "gpt2", rank=8, **F32)
    for one in (model, loaded):
        torch.save(one, tmp_path / "model.pt")
        assert torch.equal(given(torch.load(tmp_path / "model.pt", weights_only=False)), given(one))
        assert torch.equal(given(copy.deepcopy(one)), given(one))
    torch.load(tmp_path / "model.pt", weights_only=False).save_pretrained(tmp_path / "saved")


def test_a_pattern_can_stand_alone_and_a_batch_cannot():
    model = llama()
    report = calabi.replace_linear_layers(model, 4, exclude="*.q_proj", include="model.layers.0.*")
    assert len(report) == 6
    for batch in ({"input_ids": IDS}, hf.BatchEncoding({"input_ids": IDS})):
        with pytest.raises(calabi.ConfigError, match="in a list"):
            calabi.replace_linear_layers(llama(), 4, calibrate=batch)
        with pytest.raises(calabi.ConfigError, match="in a list"):
            calabi.compress_hf_model(MODELS / "llama", rank=4, calibrate=batch)
    with pytest.raises(calabi.ConfigError, match="in a list"):
        calabi.calibrate(llama(), IDS)


def saved(kind, config, folder):
    torch.manual_seed(2)
    kind(config).save_pretrained(folder)
    return folder


def test_experts_and_linear_layers_by_another_name(tmp_path):
    common = {"vocab_size": 80, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    mixtral = hf.MixtralConfig(**common, intermediate_size=48, num_local_experts=4, num_key_value_heads=4)
    falcon = hf.FalconConfig(**common)
    cases = ((hf.MixtralForCausalLM, mixtral, 4), (hf.FalconForCausalLM, falcon, 4))
    for kind, config, count in cases:
        folder = saved(kind, config, tmp_path / kind.__name__)
        model = calabi.compress_hf_model(folder, rank=8, **F32)
        assert len(model.calabi_report) == count, model.calabi_report
        batches = [{"input_ids": IDS}]
        calibrated = calabi.compress_hf_model(folder, rank=8, calibrate=batches, **F32)
        assert np.isfinite(given(calibrated).numpy()).all()
        memory = hf.AutoModelForCausalLM.from_pretrained(folder, **F32)
        assert len(calabi.replace_linear_layers(memory, 8)) >= count


def test_an_encoder_and_its_decoder_reload(tmp_path):
    sizes = {"vocab_size": 80, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    encoder, decoder = hf.BertConfig(**sizes), hf.BertConfig(**sizes, is_decoder=True, add_cross_attention=True)
    config = hf.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    folder = saved(hf.EncoderDecoderModel, config, tmp_path / "dense")
    small = calabi.compress_hf_model(folder, rank=8, auto_class=hf.AutoModelForSeq2SeqLM, **F32)
    with torch.no_grad():
        assert small(input_ids=IDS, decoder_input_ids=IDS).logits.shape == (2, 10, 80)


def test_padding_of_an_encoder_is_not_that_of_a_decoder():
    config = hf.T5Config(
        vocab_size=80, d_model=32, d_ff=48, num_layers=1, num_heads=4, d_kv=8, decoder_start_token_id=0, dropout_rate=0.0
    )
    torch.manual_seed(2)
    mask = torch.ones_like(IDS)
    mask[1, 4:] = 0
    batch = {"input_ids": IDS, "attention_mask": mask, "decoder_input_ids": IDS}
    found = calabi.calibrate(hf.T5ForConditionalGeneration(config), [batch])
    tokens = {name: one.tokens for name, one in found.items()}
    assert tokens["encoder.block.0.layer.0.SelfAttention.q"] == 14
    assert tokens["decoder.block.0.layer.0.SelfAttention.q"] == 20
    with torch.inference_mode():
        calabi.calibrate(llama(), [{"input_ids": IDS}])


def test_sections_of_a_pipeline_are_merged():
    model = calabi.compress_hf_model(MODELS / "llama", 0.5, pipeline={"layers": {"multiple": 1}}, min_features=40)
    assert len(model.calabi_report) == 0
    model = calabi.compress_hf_model(MODELS / "llama", 0.55, pipeline={"layers": {"multiple": 1}})
    assert len(model.calabi_report) == 14 and model.calabi_report.factorized[0].rank == 18


def test_larger_than_dense_is_said():
    with pytest.warns(calabi.LargerThanDense, match="hold"):
        calabi.compress_hf_model(MODELS / "llama", 0.9)


CODE = """
import torch, transformers

class OwnConfig(transformers.PretrainedConfig):
    model_type = "own"
    def __init__(self, width=32, **kwargs):
        self.width = width
        super().__init__(**kwargs)

class OwnModel(transformers.PreTrainedModel):
    config_class = OwnConfig
    def __init__(self, config):
        super().__init__(config)
        self.up = torch.nn.Linear(config.width, 2 * config.width)
        self.down = torch.nn.Linear(2 * config.width, config.width)
        self.post_init()
    def forward(self, x):
        return self.down(torch.relu(self.up(x)))
"""


def test_an_architecture_of_its_own_needs_trust(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own.py").write_text(CODE)
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    (folder / "config.json").write_text(
        json.dumps({"model_type": "own", "width": 32, "architectures": ["OwnModel"], "auto_map": auto_map})
    )
    from safetensors.torch import save_file

    torch.manual_seed(4)
    up, down = torch.nn.Linear(32, 64), torch.nn.Linear(64, 32)
    state = {f"up.{k}": v for k, v in up.state_dict().items()} | {f"down.{k}": v for k, v in down.state_dict().items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(calabi.ConfigError, match="says that you trust it"):
        calabi.compress_hf_model(folder, rank=8)
    small = tmp_path / "small"
    model = calabi.compress_hf_model(folder, rank=8, output=small, trust_remote_code=True)
    x = torch.randn(3, 32)
    wanted = model(x)
    with pytest.raises(ValueError, match="If you trust it"):
        hf.AutoModel.from_pretrained(small)
    config = calabi.modeling_calabi.CalabiConfig.from_pretrained(small)
    again = hf.AutoModel.from_pretrained(small, config=config, trust_remote_code=True)
    assert torch.equal(again(x), wanted)
