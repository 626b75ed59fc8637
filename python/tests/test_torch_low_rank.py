"""`LowRankLinear`, and the layers of torch models in memory."""

import copy
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import calabi  # noqa: E402
from calabi.arrays import matrix  # noqa: E402


def linear(inputs=48, outputs=64, **kwargs):
    torch.manual_seed(3)
    return nn.Linear(inputs, outputs, **kwargs)


def test_tensors_are_matrices_without_a_copy():
    weight = linear().weight
    seen = matrix(weight)
    assert seen.ctypes.data == weight.data_ptr() and np.shares_memory(seen, weight.detach().numpy())
    for other in (weight.double(), weight.bfloat16().float(), weight.T.contiguous().T):
        np.testing.assert_allclose(calabi.spectrum(other).values, calabi.spectrum(weight).values, rtol=2e-2)
    assert calabi.spectrum(weight.bfloat16()).shape == (64, 48)
    with pytest.raises(TypeError, match="without entries"):
        calabi.spectrum(torch.empty(3, 3, device="meta"))
    with pytest.raises(TypeError, match="complex64"):
        calabi.spectrum(torch.zeros(3, 3, dtype=torch.complex64))
    with pytest.raises(TypeError, match="without entries"):
        calabi.spectrum(torch.eye(3).to_sparse())


def test_full_rank_gives_the_dense_layer():
    dense = linear()
    layer = calabi.LowRankLinear(dense, rank=48)
    x = torch.randn(5, 7, 48)
    torch.testing.assert_close(layer(x), dense(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.weight, dense.weight, rtol=1e-4, atol=1e-5)


def test_a_layer_says_what_it_is():
    layer = calabi.LowRankLinear(linear(), {"kind": "fraction", "keep": 0.25})
    assert (layer.rank, layer.in_features, layer.out_features) == (12, 48, 64)
    assert sorted(layer.state_dict()) == ["left.bias", "left.weight", "right.weight"]
    assert "rank=12" in repr(layer)
    assert calabi.LowRankLinear(linear(bias=False), 4).bias is None


def test_type_mode_and_training_are_the_layers():
    dense = linear(dtype=torch.bfloat16).eval().requires_grad_(False)
    layer = calabi.LowRankLinear(dense, 8)
    assert {p.dtype for p in layer.parameters()} == {torch.bfloat16}
    assert not layer.training and not any(p.requires_grad for p in layer.parameters())
    assert layer(torch.randn(2, 48, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_gradients_are_those_of_the_factors():
    layer = calabi.LowRankLinear(linear(6, 5), 3).double()
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    left, right, bias = (p.detach().clone().requires_grad_() for p in (layer.left.weight, layer.right.weight, layer.bias))

    def ours(x, left, right, bias):
        values = {"left.weight": left, "right.weight": right, "left.bias": bias}
        return torch.func.functional_call(layer, values, (x,))

    assert torch.autograd.gradcheck(ours, (x, left, right, bias))
    layer(x).square().sum().backward()
    of_x, *wanted = torch.autograd.grad((x @ right.T @ left.T + bias).square().sum(), (x, left, right, bias))
    for mine, theirs in zip((x.grad, layer.left.weight.grad, layer.right.weight.grad, layer.bias.grad), (of_x, *wanted)):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_a_metric_and_a_bias_reach_the_layer():
    dense, x = linear(bias=False), torch.randn(400, 48) * torch.linspace(0.01, 3, 48) + 1.0
    metric = calabi.Statistics((x.T @ x / 400).double(), x.double().mean(0))
    plain = calabi.LowRankLinear(dense, 10)
    best = calabi.LowRankLinear(dense, 10, metric=metric, bias="joint")
    error = lambda layer: (layer(x) - dense(x)).norm().item()
    assert error(best) < 0.9 * error(plain)
    assert best.bias is not None and best.added_bias


def test_factors_can_be_given():
    left, right = torch.randn(5, 2), torch.randn(2, 7)
    layer = calabi.LowRankLinear.from_factors(left, right)
    torch.testing.assert_close(layer(torch.eye(7)), (left @ right).T)
    with pytest.raises(calabi.ConfigError, match="do not fit"):
        calabi.LowRankLinear.from_factors(left, right.T)


def test_wrong_layers_and_rules_are_exceptions():
    for given in (nn.Conv2d(3, 4, 1), nn.Bilinear(2, 2, 2), object()):
        with pytest.raises(TypeError, match="no torch.nn.Linear"):
            calabi.LowRankLinear(given, 2)
    with pytest.raises(calabi.ConfigError, match="either rank= or compression_ratio="):
        calabi.LowRankLinear(linear())
    with pytest.raises(calabi.ConfigError, match="either rank= or compression_ratio="):
        calabi.LowRankLinear(linear(), 3, compression_ratio=0.5)
    with pytest.raises(calabi.ConfigError):
        calabi.LowRankLinear(linear(), compression_ratio=1.5)
    with pytest.raises(calabi.SelectError, match="stays dense"):
        calabi.LowRankLinear(linear(), lambda spectrum: None)
    broken = linear()
    broken.weight.data[3, 4] = float("nan")
    with pytest.raises(calabi.DecomposeError, match="fc1 cannot be decomposed.*row 3, column 4"):
        calabi.LowRankLinear(broken, 3, name="fc1")


def test_a_layer_larger_than_dense_says_so():
    with pytest.warns(calabi.LargerThanDense, match="hold 4032 parameters, and the dense weight 3072.*up to 27"):
        calabi.LowRankLinear(linear(), compression_ratio=0.75)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calabi.LowRankLinear(linear(), compression_ratio=0.5)


def network(scale=1.0):
    torch.manual_seed(5)
    body = nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Sequential(nn.Linear(48, 40), nn.Tanh()), nn.Linear(40, 4))
    for module in body.modules():
        if isinstance(module, nn.Linear):
            module.weight.data *= scale * 0.8 ** torch.arange(module.in_features)
    return body


def test_layers_are_replaced_and_reported():
    model = network()
    before = sum(p.numel() for p in model.parameters())
    report = calabi.replace_linear_layers(model, {"kind": "max-error", "epsilon": 0.2}, min_features=8)
    assert len(report) == 2 and [layer.name for layer in report.replaced] == ["0", "2.0"]
    assert isinstance(model[0], calabi.LowRankLinear) and isinstance(model[3], nn.Linear)
    assert all(layer.measured_error <= 0.2 for layer in report.replaced)
    assert report.layers[2].because == "fewer than 8 features" and report.layers[2].rank is None
    after = sum(p.numel() for p in model.parameters())
    assert report.parameters == (before, after) and report.removed == pytest.approx(1 - after / before)
    assert "2 of 3 layers replaced" in str(report) and "fewer than 8 features" in str(report)
    assert model(torch.randn(3, 32)).shape == (3, 4)


def test_a_budget_is_shared():
    model = network()
    dense = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    report = calabi.replace_linear_layers(model, keep=0.5)
    kept = sum(layer.parameters[1] for layer in report.layers)
    assert kept <= 0.5 * dense and len(report) >= 2


def test_functions_patterns_and_progress(capsys):
    model, seen = network(), []

    def rule(spectrum):
        seen.append(spectrum.name)
        return 4

    report = calabi.replace_linear_layers(model, rule, include=["re:[03]", "2.*"], exclude=["3"], verbose=True)
    assert seen == ["0", "2.0"] and [layer.rank for layer in report.layers] == [4, 4, None]
    assert report.layers[2].because == "excluded" and "2 of 3 layers replaced" in capsys.readouterr().out


def test_nothing_is_replaced_where_one_fails():
    model = network()
    model[2][0].weight.data[0, 0] = float("inf")
    kept = copy.deepcopy(model.state_dict())
    with pytest.raises(calabi.DecomposeError, match="2.0 cannot be decomposed"):
        calabi.replace_linear_layers(model, 4)
    assert list(kept) == list(model.state_dict()) and isinstance(model[0], nn.Linear)
    with pytest.raises(calabi.ConfigError, match="give one of"):
        calabi.replace_linear_layers(network(), 4, keep=0.5)
    with pytest.raises(calabi.ConfigError, match="calabi.LowRankLinear"):
        calabi.replace_linear_layers(nn.Linear(8, 8), 4)


def test_a_layer_used_twice_is_replaced_in_both_places():
    shared = nn.Linear(32, 32)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared)})
    assert len(calabi.replace_linear_layers(model, 4)) == 1
    assert isinstance(model["a"], calabi.LowRankLinear) and model["a"] is model["b"][0]


def test_tied_weights_and_classes_of_their_own_stay():
    class Own(nn.Linear):
        pass

    model = nn.ModuleDict({"table": nn.Embedding(64, 32), "head": nn.Linear(32, 64, bias=False), "own": Own(32, 32)})
    model["head"].weight = model["table"].weight
    report = calabi.replace_linear_layers(model, 4)
    assert len(report) == 0 and bool(report)
    reasons = {layer.name: layer.because for layer in report.layers}
    assert reasons["head"] == "its weight is also table.weight" and "class of its own" in reasons["own"]
    attention = nn.MultiheadAttention(32, 4)
    assert len(calabi.replace_linear_layers(attention, 4)) == 0


def test_the_original_layers_meaning_of_a_ratio_and_its_warning():
    model = network()
    with pytest.warns(calabi.LargerThanDense, match=r"0 \(and 2 more\)") as told:
        report = calabi.replace_linear_layers(model, compression_ratio=1.0)
    assert len(told) == 1 and [layer.rank for layer in report.layers] == [32, 40, 4]


def test_calibration_on_batches():
    model, x = network(), torch.randn(300, 32) * torch.logspace(-2, 1, 32) + 0.5
    wanted = model(x)
    gathered = calabi.calibrate(model.train(), [x[:100], x[100:]])
    assert model.training and set(gathered) == {"0", "2.0", "3"} and gathered["0"].tokens == 300
    torch.testing.assert_close(torch.from_numpy(gathered["0"].gram), (x.T @ x / 300).double(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(gathered["0"].mean), x.mean(0).double(), rtol=1e-4, atol=1e-5)

    def error(**settings):
        changed = copy.deepcopy(model)
        calabi.replace_linear_layers(changed, 6, include=["0"], **settings)
        return (changed(x) - wanted).norm().item()

    plain, best = error(), error(calibrate=[(x,)], bias="joint")
    assert best < 0.8 * plain
    assert error(calibrate=gathered, bias="joint") == pytest.approx(best, rel=1e-3)
    assert error(calibrate=[{"x": x}], forward=lambda m, b: m(b["x"]), bias="joint") == pytest.approx(best, rel=1e-3)
    with pytest.raises(calabi.ConfigError, match="no batches"):
        calabi.calibrate(model, [])


def test_means_that_are_large_cost_no_digits():
    x = torch.randn(2000, 8) + 1e4
    found = calabi.calibrate(nn.Sequential(nn.Linear(8, 8)), [x])["0"]
    covariance = found.gram - np.outer(found.mean, found.mean)
    np.testing.assert_allclose(covariance, np.cov(x.double().numpy().T, bias=True), atol=2e-3)


def test_a_layer_that_no_input_reaches_stays():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x):
            return self.used(x)

    report = calabi.replace_linear_layers(Unused(), 4, calibrate=[torch.randn(64, 16)])
    assert [layer.rank for layer in report.layers] == [4, None]
    assert report.layers[1].because == "no input reached it in calibration"
    report = calabi.replace_linear_layers(Unused(), keep=0.5, calibrate=[torch.randn(64, 16)])
    assert report.layers[1].because == "no input reached it in calibration"


def test_layers_that_read_the_same_share_their_moments_and_padding_does_not_count():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.o = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x, attention_mask):
            return self.o(self.q(x) + self.k(x))

    x, mask = torch.randn(2, 5, 8), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    found = calabi.calibrate(Two(), [{"x": x, "attention_mask": mask}])
    assert found["q"] is found["k"] and found["q"] is not found["o"] and found["q"].tokens == 7
    real = x[mask.bool()].double()
    np.testing.assert_allclose(found["q"].gram, (real.T @ real / 7).numpy(), rtol=1e-4, atol=1e-5)


def test_layers_that_are_not_plain_stay_and_say_why():
    import torch.nn.utils.parametrizations as parametrizations
    import torch.nn.utils.prune as prune

    model = nn.ModuleDict({
        "normed": parametrizations.weight_norm(nn.Linear(32, 32)),
        "pruned": prune.l1_unstructured(nn.Linear(32, 32), "weight", 0.5),
        "lazy": nn.LazyLinear(32),
        "complex": nn.Linear(32, 32, dtype=torch.complex64),
        "plain": nn.Linear(32, 32),
    })
    report = calabi.replace_linear_layers(model, 4)
    assert [layer.name for layer in report.replaced] == ["plain"]
    assert all("parameter" in layer.because or "class" in layer.because for layer in report.layers[:4]), str(report)
    with pytest.raises(TypeError, match="computed from others"):
        calabi.LowRankLinear(prune.l1_unstructured(nn.Linear(32, 32), "weight", 0.5), 4)
    assert str(calabi.replace_linear_layers(nn.Sequential(), 4)).endswith("(+0.0%)")


def test_halves_are_measured_as_they_are_stored():
    model = nn.Sequential(nn.Linear(64, 64, dtype=torch.bfloat16))
    dense = model[0].weight.detach().float()
    report = calabi.replace_linear_layers(model, 64, break_even=False)
    made = model[0]
    product = made.left.weight.detach().float() @ made.right.weight.detach().float()
    assert report.layers[0].measured_error == pytest.approx(((product - dense).norm() / dense.norm()).item(), rel=1e-3)
    large = nn.Linear(64, 64, dtype=torch.float16)
    large.weight.data.fill_(60000.0)
    with pytest.raises(calabi.DecomposeError, match="too large for torch.float16"):
        calabi.LowRankLinear(large, 2)


def test_layers_are_copied_and_pickled(tmp_path):
    layer = calabi.LowRankLinear(linear(), 4)
    torch.save(layer, tmp_path / "layer.pt")
    x = torch.randn(3, 48)
    for again in (copy.deepcopy(layer), torch.load(tmp_path / "layer.pt", weights_only=False)):
        assert torch.equal(again(x), layer(x))
    with pytest.raises(calabi.ConfigError, match="bias"):
        calabi.LowRankLinear.from_factors(torch.randn(5, 2), torch.randn(2, 7), torch.randn(4))
