"""Every rule that the engine knows, and functions in Python."""

import numpy as np
import pytest

import calabi

# A gap after the sixth.
VALUES = 2.0 ** -np.arange(20) * np.where(np.arange(20) < 6, 1.0, 0.05)
SETTINGS = {
    "combined": {"energy": 0.95},
    "energy": {"threshold": 0.95},
    "fixed": {"rank": 5},
    "fraction": {"keep": 0.5},
    "max-error": {"epsilon": 0.1},
    "budget": {"keep": 0.5},
}


@pytest.mark.parametrize("plugin", calabi.selectors(), ids=lambda plugin: plugin.kind)
def test_every_rule_can_be_asked_by_kind_and_settings(plugin):
    spectrum = calabi.Spectrum(VALUES.tolist(), (40, 20))
    settings = {"kind": plugin.kind} | SETTINGS.get(plugin.kind, {})
    if plugin.kind == "budget":
        choice = calabi.allocate([spectrum], settings)[0]
    else:
        choice = calabi.select(spectrum, settings)
    assert 1 <= choice.rank <= 20 and choice.because


def test_energy_keeps_its_share():
    share = np.cumsum(VALUES**2) / (VALUES**2).sum()
    wanted = int(np.argmax(share >= 0.95)) + 1
    assert calabi.select(VALUES, {"kind": "energy", "threshold": 0.95}).rank == wanted
    assert calabi.select(VALUES, {"kind": "energy", "threshold": 0.95}, multiple=8).rank == 8


def test_numbers_and_functions_are_rules():
    assert calabi.select(VALUES, 3).rank == 3
    assert calabi.select(VALUES, np.int64(3)).rank == 3
    assert calabi.select(VALUES, lambda spectrum: int((spectrum.values > 0.1).sum())) == (4, "<lambda> says so")
    assert calabi.select(VALUES, lambda spectrum: (2, "two are enough")) == (2, "two are enough")
    assert calabi.select(VALUES, lambda spectrum: None) == (None, "<lambda> says so")


def test_a_layer_stays_dense_where_factors_would_not_be_smaller():
    choice = calabi.select(VALUES, {"kind": "fraction", "keep": 0.9}, break_even=True)
    assert choice.rank is None and choice.because


def test_what_a_function_raises_is_the_cause():
    def broken(spectrum):
        raise KeyError("no idea")

    with pytest.raises(calabi.SelectError, match="the function broken failed: KeyError: 'no idea'") as raised:
        calabi.select(VALUES, broken)
    assert isinstance(raised.value.__cause__, KeyError)
    with pytest.raises(calabi.SelectError, match="no idea") as raised:
        calabi.factorize(np.eye(4), broken)
    assert isinstance(raised.value.__cause__, KeyError)


@pytest.mark.parametrize("given", [0, -3, 21, 2**70])
def test_a_rank_out_of_range_is_refused(given):
    with pytest.raises(calabi.SelectError, match="run from 1 to 20|whole number"):
        calabi.select(VALUES, lambda spectrum: given)


@pytest.mark.parametrize("given", [1.5, "3", True, [3], (3,)])
def test_what_is_no_rank_is_refused(given):
    with pytest.raises(calabi.SelectError) as raised:
        calabi.select(VALUES, lambda spectrum: given)
    assert isinstance(raised.value.__cause__, (TypeError, ValueError))


@pytest.mark.parametrize("values", [[], [1.0, 2.0], [1.0, float("nan")], [1.0, -1.0]])
def test_what_is_no_spectrum_is_refused(values):
    with pytest.raises(calabi.ConfigError):
        calabi.select(values, 1)


def test_layers_share_a_budget():
    steep = calabi.Spectrum((0.1 ** np.arange(32)).tolist(), (64, 32), name="steep")
    flat = calabi.Spectrum([1.0] * 32, (64, 32), name="flat")
    choices = calabi.allocate([steep, flat], {"kind": "budget", "keep": 0.7})
    kept = [choice.rank * 96 if choice.rank else 64 * 32 for choice in choices]
    assert sum(kept) <= 0.7 * 2 * 64 * 32 and kept[0] < kept[1]
    with pytest.raises(calabi.ConfigError, match="shares no budget"):
        calabi.allocate([steep, flat], {"kind": "energy", "threshold": 0.9})
    with pytest.raises(calabi.ConfigError, match="shares no budget"):
        calabi.allocate([steep, flat], 3)


def test_plugins_say_what_they_take():
    energy = next(plugin for plugin in calabi.selectors() if plugin.kind == "energy")
    assert energy.summary and [setting.name for setting in energy.settings] == ["threshold"]
    assert "faer" in [plugin.kind for plugin in calabi.decomposers()]


def test_what_is_no_error_comes_out_as_it_is():
    def interrupted(spectrum):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calabi.select(VALUES, interrupted)
    with pytest.raises(KeyboardInterrupt):
        calabi.factorize(np.eye(4), interrupted)
