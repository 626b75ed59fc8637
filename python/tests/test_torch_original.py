"""The calls that the original project's README shows, unchanged; a tiny local BERT takes the place of the download."""

import pytest

torch = pytest.importorskip("torch")
nn = torch.nn


def test_a_layer():
    from calabi import OptimizedCalabiYauLinear

    layer = OptimizedCalabiYauLinear(original_linear=nn.Linear(1024, 1024), compression_ratio=0.5)
    assert layer(torch.randn(32, 1024)).shape == (32, 1024)
    assert layer.rank == 512


def test_a_model():
    from calabi.utils import OptimizedCYModelUtils

    model = nn.Sequential(nn.Linear(1024, 2048), nn.ReLU(), nn.Linear(2048, 1024))
    replaced = OptimizedCYModelUtils.replace_linear_layers(model, compression_ratio=0.5, min_features=128)
    assert len(replaced) == 2
    assert model(torch.randn(4, 1024)).shape == (4, 1024)


def test_a_checkpoint(bert_in_cache, capsys):
    from calabi import compress_hf_model

    model = compress_hf_model("bert-base-uncased", compression_ratio=0.5, verbose=True)
    assert "layers factorized" in capsys.readouterr().out
    ids = torch.randint(1, 80, (2, 10))
    assert model(input_ids=ids).logits.shape == (2, 10, 80)
    assert len(model.calabi_report) == 13
