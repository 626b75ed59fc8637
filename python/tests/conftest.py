"""What tests share."""

import numpy as np
import pytest


@pytest.fixture
def rng():
    """Random numbers, the same for every run."""
    return np.random.default_rng(7)


@pytest.fixture
def weight(rng):
    """A matrix whose singular values fall quickly: 40 outputs, 30 inputs."""
    return (rng.normal(size=(40, 30)) * 0.8 ** np.arange(30)).astype(np.float32)


@pytest.fixture
def checkpoint(tmp_path, rng):
    """A file of three layers, two of which are worth factors."""
    from safetensors.numpy import save_file

    layers = {"up": (96, 64), "down": (64, 96), "small": (8, 8)}
    tensors = {
        f"{name}.weight": (rng.normal(size=shape) * 0.9 ** np.arange(shape[1])).astype(np.float32)
        for name, shape in layers.items()
    }
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture(scope="session")
def _bert(tmp_path_factory):
    """A folder as the hub's cache keeps it, with a tiny BERT under the name of a large one."""
    torch, hf = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = hf.BertConfig(vocab_size=80, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    cache = tmp_path_factory.mktemp("hub")
    place = cache / "models--bert-base-uncased"
    hf.BertForMaskedLM(config).save_pretrained(place / "snapshots" / ("0" * 40))
    (place / "refs").mkdir()
    (place / "refs/main").write_text("0" * 40)
    return cache


@pytest.fixture
def bert_in_cache(_bert, monkeypatch):
    """`bert-base-uncased`, which transformers finds in its cache, without a network."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(_bert))
    import transformers.utils.hub as hub

    for name in ("TRANSFORMERS_CACHE", "HF_HUB_CACHE"):
        if hasattr(hub, name):
            monkeypatch.setattr(hub, name, str(_bert))
    return _bert
