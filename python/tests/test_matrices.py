"""Singular values, vectors and factors against NumPy's own, and what wrong input gives."""

import copy
import pickle
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import calabi


def relative(error, of):
    return np.linalg.norm(error) / np.linalg.norm(of)


def test_decompose_gives_what_numpy_gives(weight):
    u, s, vt = calabi.decompose(weight)
    assert (u.shape, s.shape, vt.shape) == ((40, 30), (30,), (30, 30))
    np.testing.assert_allclose(s, np.linalg.svd(weight.astype(float), compute_uv=False), rtol=1e-5, atol=1e-6)
    assert relative(u * s @ vt - weight, weight) < 1e-5
    np.testing.assert_allclose(vt @ vt.T, np.eye(30), atol=1e-5)
    u, s, vt = calabi.decompose(weight, rank=4)
    assert (u.shape, s.shape, vt.shape) == ((40, 4), (4,), (4, 30))


@pytest.mark.parametrize("rank", [1, 7, 30])
def test_factors_are_the_best_of_their_rank(weight, rank):
    made = calabi.factorize(weight, rank)
    values = np.linalg.svd(weight.astype(float), compute_uv=False)
    best = np.sqrt((values[rank:] ** 2).sum() / (values**2).sum())
    assert made.rank == rank and made.left.shape == (40, rank) and made.right.shape == (rank, 30)
    assert made.left.dtype == made.right.dtype == np.float32
    assert relative(made.product() - weight, weight) == pytest.approx(best, rel=1e-3, abs=1e-6)
    assert made.predicted_error == pytest.approx(best, rel=1e-4, abs=1e-6)
    assert made.measured_error == pytest.approx(best, rel=1e-3, abs=1e-6)
    assert made.break_even == 18 and made.bias is None


def samples(rng):
    """Inputs of which few are large, with a mean."""
    return rng.normal(size=(500, 30)) * np.geomspace(10, 0.01, 30)[::-1] + rng.normal(size=30)


def output_error(made, weight, x):
    bias = 0.0 if made.bias is None else made.bias
    return relative(x @ (weight - made.product()).T - bias, x @ weight.T)


def test_a_metric_makes_the_outputs_best(weight, rng):
    x = samples(rng)
    gram = x.T @ x / len(x)
    plain, best = calabi.factorize(weight, 6), calabi.factorize(weight, 6, metric=gram)
    assert output_error(best, weight, x) < 0.9 * output_error(plain, weight, x)
    # The optimum, by the singular values of W L.
    values = np.linalg.svd(weight @ np.linalg.cholesky(gram), compute_uv=False)
    optimum = np.sqrt((values[6:] ** 2).sum() / (values**2).sum())
    assert output_error(best, weight, x) == pytest.approx(optimum, rel=1e-3)
    assert best.measured_error == pytest.approx(optimum, rel=1e-3)
    np.testing.assert_allclose(best.spectrum.values[:6], values[:6], rtol=1e-4)


def test_a_bias_makes_up_for_the_mean(weight, rng):
    x = samples(rng)
    statistics = calabi.Statistics(x.T @ x / len(x), x.mean(0))
    errors = [
        output_error(calabi.factorize(weight, 6, metric=statistics, bias=bias), weight, x)
        for bias in ("none", "residual", "joint")
    ]
    assert errors[0] > errors[1] >= errors[2] * 0.999
    with pytest.raises(calabi.ConfigError, match="give metric=Statistics"):
        calabi.factorize(weight, 6, bias="joint")
    with pytest.raises(calabi.ConfigError, match="bias: unknown variant `some`"):
        calabi.factorize(weight, 6, metric=statistics, bias="some")


def test_what_tokens_are_few_shrinks_the_metric(weight, rng):
    x = rng.normal(size=(5, 30))
    few = calabi.Statistics(x.T @ x / 5, tokens=5)
    drawn = calabi.factorize(weight, 6, metric=few)
    taken = calabi.factorize(weight, 6, metric=few, shrinkage=0.0)
    assert output_error(taken, weight, x) < 1e-4 < output_error(drawn, weight, x)
    assert relative(drawn.product() - weight, weight) < relative(taken.product() - weight, weight)


def test_a_spectrum_says_what_ranks_lose(weight):
    spectrum = calabi.spectrum(weight, name="up")
    assert (spectrum.name, spectrum.shape, len(spectrum), spectrum.is_complete) == ("up", (40, 30), 30, True)
    assert spectrum.energy == pytest.approx((weight.astype(float) ** 2).sum(), rel=1e-5)
    assert np.asarray(spectrum).tolist() == spectrum.values.tolist()
    assert spectrum.relative_error(5) == pytest.approx(np.sqrt(spectrum.losses[5] / spectrum.energy))
    assert "up of 40x30" in repr(spectrum)


@pytest.mark.parametrize(
    "given",
    [lambda w: w.astype(np.float64), lambda w: np.asfortranarray(w), lambda w: w.tolist(), lambda w: np.flip(w[::-1], 0)],
)
def test_other_layouts_and_types_are_taken_too(weight, given):
    np.testing.assert_allclose(calabi.spectrum(given(weight)).values, calabi.spectrum(weight).values, rtol=1e-6)


def test_integers_and_halves_are_numbers():
    assert calabi.spectrum(np.diag([3, 2, 1])).values == pytest.approx([3, 2, 1])
    assert calabi.spectrum(np.diag([3, 2, 1]).astype(np.float16)).values == pytest.approx([3, 2, 1])


@pytest.mark.parametrize(
    ("given", "kind", "text"),
    [
        (np.zeros(3), calabi.InputError, "has 1 dimensions"),
        (np.zeros((2, 3, 4)), calabi.InputError, "has 3 dimensions"),
        (np.zeros((0, 4)), calabi.DecomposeError, "the matrix is empty"),
        (np.array([[1.0, np.nan]]), calabi.DecomposeError, "row 0, column 1 is NaN"),
        (np.array([[1.0], [np.inf]]), calabi.DecomposeError, "row 1, column 0 is inf"),
        (np.array([[1e300]]), calabi.InputError, "too large for float32"),
        (np.array([[1j]]), TypeError, "complex128"),
        (np.array([["a"]]), TypeError, "real numbers"),
        (object(), TypeError, "real numbers"),
    ],
)
@pytest.mark.parametrize("call", [calabi.spectrum, calabi.decompose, lambda w: calabi.factorize(w, 1)])
def test_wrong_matrices_are_exceptions(given, kind, text, call):
    with pytest.raises(kind, match=text):
        call(given)


@pytest.mark.parametrize(
    ("rank", "kind", "text"),
    [
        (0, calabi.ConfigError, "rank"),
        (-1, calabi.ConfigError, "rank"),
        ({"kind": "energie", "threshold": 0.9}, calabi.ConfigError, "did you mean `energy`"),
        ({"kind": "energy", "threshold": 95}, calabi.ConfigError, "threshold"),
        ({"kind": "energy"}, calabi.ConfigError, "threshold"),
        ({"kind": "budget", "keep": 0.5}, calabi.ConfigError, "here is one matrix"),
        ({"threshold": 0.5}, calabi.ConfigError, "has no `kind`"),
        ({"kind": "energy", "threshold": float("nan")}, calabi.ConfigError, "finite"),
        ({"kind": "energy", "threshold": object()}, calabi.ConfigError, "settings.threshold"),
        ("energy", TypeError, "a rule is"),
        (True, TypeError, "a rule is"),
        (1.5, TypeError, "a rule is"),
    ],
)
def test_wrong_rules_are_exceptions(weight, rank, kind, text):
    with pytest.raises(kind, match=text):
        calabi.factorize(weight, rank)


def test_wrong_statistics_and_decomposers_are_exceptions(weight):
    with pytest.raises(calabi.ConfigError, match="the Gram matrix is 3x3"):
        calabi.factorize(weight, 2, metric=np.eye(3))
    with pytest.raises(calabi.ConfigError, match="the mean has 3 entries"):
        calabi.factorize(weight, 2, metric=calabi.Statistics(np.eye(30), np.zeros(3)))
    with pytest.raises(calabi.ConfigError, match="not a finite number"):
        calabi.factorize(weight, 2, metric=np.full((30, 30), np.nan))
    with pytest.raises(calabi.ConfigError, match="did you mean `faer`"):
        calabi.decompose(weight, decomposer="fear")
    with pytest.raises(calabi.ConfigError, match="run from 1 to 30"):
        calabi.decompose(weight, rank=31)


def test_an_exception_has_the_way_out(weight):
    with pytest.raises(calabi.CalabiError) as raised:
        calabi.factorize(weight, {"kind": "energie"})
    assert isinstance(raised.value, ValueError)
    assert raised.value.help in str(raised.value) and "did you mean" in raised.value.help


def test_the_interpreter_is_free_while_rust_works(rng):
    weight, ticks = rng.normal(size=(900, 900)).astype(np.float32), []
    worker = threading.Thread(target=calabi.decompose, args=(weight,), kwargs={"threads": 1})
    worker.start()
    while worker.is_alive():
        ticks.append(time.perf_counter())
        time.sleep(0.001)
    assert len(ticks) > 5


def test_one_thread_and_two_give_the_same(weight):
    one, two = (calabi.factorize(weight, 9, threads=threads) for threads in (1, 2))
    assert np.array_equal(one.left, two.left) and np.array_equal(one.right, two.right)


def test_import_brings_neither_torch_nor_transformers():
    code = "import sys, calabi; print([name for name in ('torch', 'transformers', 'tqdm') if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"threads": -1}, "threads"),
        ({"threads": 10**6}, "threads"),
        ({"threads": 1.5}, "threads"),
        ({"objective": "diagonal"}, "give metric="),
        ({"shrinkage": 0.5}, "give metric="),
        ({"metric": np.eye(30), "shrinkage": float("nan")}, "shrinkage"),
        ({"metric": calabi.Statistics(np.eye(30), tokens=-5)}, "tokens"),
        ({"metric": calabi.Statistics(np.eye(30), np.full(30, 7.0)), "bias": "joint"}, "larger than the Gram matrix"),
        ({"metric": np.eye(30), "objective": "norm"}, "gram"),
        ({"multiple": 0}, "multiple"),
    ],
)
def test_wrong_settings_name_themselves(weight, settings, text):
    with pytest.raises(calabi.ConfigError, match=text):
        calabi.factorize(weight, 4, **settings)


def test_factors_beyond_f32_are_refused():
    with pytest.raises(calabi.DecomposeError, match="too large for float32"):
        calabi.factorize(np.full((30, 30), 3.4e38, dtype=np.float32), 2)


def test_spectra_are_copied_and_pickled(weight):
    for spectrum in (calabi.spectrum(weight, name="up"), calabi.spectrum(weight, metric=np.eye(30) * 2)):
        again = pickle.loads(pickle.dumps(spectrum))
        assert repr(again) == repr(spectrum) and again.losses.tolist() == spectrum.losses.tolist()
        assert copy.copy(spectrum).energy == spectrum.energy and again.is_complete
    assert pickle.loads(pickle.dumps(calabi.factorize(weight, 3))).rank == 3
