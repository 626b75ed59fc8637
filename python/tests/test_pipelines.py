"""Whole models: a file, a dict, the program; progress, Ctrl-C, exceptions."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import calabi

HALF = {"kind": "budget", "keep": 0.5}


def pipeline(checkpoint, rank=HALF, **sections):
    return {"model": {"input": checkpoint, "output": checkpoint.parent / "small.safetensors"}, "rank": rank} | sections


def test_a_dict_runs(checkpoint):
    report = calabi.run(pipeline(checkpoint))
    tensors = load_file(report.output)
    assert {"up.left.weight", "up.right.weight"} <= set(tensors) and report.passed
    before, after = (sum(t.size for t in load_file(path).values()) for path in (checkpoint, report.output))
    assert (report.parameters.before, report.parameters.after) == (before, after)
    assert report.removed == pytest.approx(1 - after / before)
    up = next(layer for layer in report.layers if layer.name == "up")
    assert up.rank == tensors["up.left.weight"].shape[1] and up.shape == [96, 64] and up.outcome == "factorized"
    assert len(report) == len(report.factorized) and "parameters of the model" in str(report)
    assert json.loads(report.json())["layers"][0]["name"] == report["layers"][0]["name"]


def test_a_file_gives_the_bytes_that_the_program_gives(checkpoint, tmp_path):
    text = '[model]\ninput = "model.safetensors"\noutput = "{}"\n[rank]\nkind = "budget"\nkeep = 0.5\n'
    for name in ("ours", "theirs"):
        (tmp_path / f"{name}.toml").write_text(text.format(f"{name}.safetensors"))
    calabi.run(tmp_path / "ours.toml")
    ran = subprocess.run(program("run", tmp_path / "theirs.toml"), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    calabi.run(pipeline(checkpoint) | {"model": {"input": checkpoint, "output": tmp_path / "dict.safetensors"}})
    files = [(tmp_path / f"{name}.safetensors").read_bytes() for name in ("ours", "theirs", "dict")]
    assert files[0] == files[1] == files[2]


def test_settings_can_be_changed(checkpoint, tmp_path):
    model = '[model]\ninput = "model.safetensors"\noutput = "o.safetensors"\n'
    (tmp_path / "p.toml").write_text(f'{model}[rank]\nkind = "fixed"\nrank = 4\n')
    report = calabi.run(tmp_path / "p.toml", set={"rank.rank": 6, "layers.include": ["up"]}, rank=None)
    assert [layer.rank for layer in report.factorized] == [6]
    report = calabi.run(tmp_path / "p.toml", rank=8, force=True)
    assert {layer.rank for layer in report.factorized} == {8}


def test_settings_of_any_kind_can_be_changed(checkpoint, tmp_path):
    output = tmp_path / "q\U0001f600 \"x\".safetensors"
    rank = {"kind": "fixed", "rank": 5}
    report = calabi.run(pipeline(checkpoint), set={"model.output": output, "rank": rank, "layers.multiple": 1})
    assert output.is_file() and {layer.rank for layer in report.factorized} == {5}
    without = {key: value for key, value in pipeline(checkpoint).items() if key != "rank"}
    report = calabi.run(without, rank=lambda spectrum: 3, memory=2**30)
    assert {layer.rank for layer in report.factorized} == {3}


def test_a_function_chooses_ranks_in_a_run(checkpoint):
    seen = []

    def third(spectrum):
        seen.append((spectrum.name, spectrum.shape))
        return len(spectrum) // 3, "a third"

    override = [{"layers": ["down"], "rank": lambda spectrum: 5}]
    report = calabi.run(pipeline(checkpoint, third, override=override, layers={"min_features": 16}))
    assert {layer.name: (layer.rank, layer.because) for layer in report.factorized} == {
        "up": (21, "a third"),
        "down": (5, "<lambda> says so"),
    }
    assert seen == [("up", (96, 64))]
    assert load_file(report.output)["up.left.weight"].shape == (96, 21)


def test_what_a_function_raises_ends_the_run(checkpoint):
    def broken(spectrum):
        raise ZeroDivisionError("no idea")

    with pytest.raises(calabi.SelectError, match="for layer (up|down|small): .*no idea") as raised:
        calabi.run(pipeline(checkpoint, broken))
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert not (checkpoint.parent / "small.safetensors").exists()


class Told:
    def __init__(self, fail_at=None):
        self.told, self.fail_at = [], fail_at

    def begin(self, stage, steps):
        self.told.append(("begin", stage, steps))

    def step(self, stage, layer):
        self.told.append(("step", stage, layer))
        if layer == self.fail_at:
            raise RuntimeError("enough")

    def note(self, stage, line):
        pass

    def end(self, stage):
        self.told.append(("end", stage))


def test_progress_is_told(checkpoint):
    told = Told()
    calabi.run(pipeline(checkpoint), progress=told)
    assert told.told[0] == ("begin", "decompose", 3) and ("step", "substitute", "up") in told.told
    assert told.told[-1] == ("end", "substitute")


def test_an_exception_of_progress_ends_the_run(checkpoint):
    with pytest.raises(RuntimeError, match="enough"):
        calabi.run(pipeline(checkpoint), progress=Told(fail_at="up"))
    assert os.listdir(checkpoint.parent) == ["model.safetensors"]


def test_progress_is_shown_in_bars_or_lines(checkpoint, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    calabi.run(pipeline(checkpoint), progress=True)
    assert "decompose 3/3" in capsys.readouterr().err
    calabi.run(pipeline(checkpoint), progress=False, force=True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"rank": {"kind": "energie"}}, calabi.ConfigError, "did you mean `energy`"),
        ({"rank": None}, calabi.ConfigError, r"section \[rank\] is missing"),
        ({"ranks": {}}, calabi.ConfigError, "unknown section `ranks`"),
        ({"layers": {"include": ["nothing"]}}, calabi.ConfigError, "nothing"),
        ({"override": {"layers": []}}, calabi.ConfigError, "override"),
        ({"model": {"input": "absent.safetensors", "output": "o"}}, calabi.ConfigError, "absent.safetensors"),
        ({"layers": {"include": [object()]}}, calabi.ConfigError, r"settings.layers.include\[0\]"),
    ],
)
def test_wrong_pipelines_are_exceptions(checkpoint, change, kind, text):
    with pytest.raises(kind, match=text):
        calabi.run(pipeline(checkpoint) | change)
    assert os.listdir(checkpoint.parent) == ["model.safetensors"]


def test_a_message_shows_the_line_of_the_file(checkpoint, tmp_path):
    (tmp_path / "p.toml").write_text('[model]\ninput = "model.safetensors"\noutput = "o"\n[rank]\nkind = "energie"\n')
    with pytest.raises(calabi.ConfigError, match=r"p\.toml:5") as raised:
        calabi.run(tmp_path / "p.toml")
    printed = subprocess.run(program("run", tmp_path / "p.toml"), capture_output=True, text=True).stderr
    assert printed.removeprefix("error: ").strip() == str(raised.value).strip()
    with pytest.raises(calabi.ConfigError, match="cannot be read"):
        calabi.run(tmp_path / "absent.toml")


def test_an_output_that_exists_stays(checkpoint):
    calabi.run(pipeline(checkpoint))
    with pytest.raises(calabi.CalabiError, match="exists"):
        calabi.run(pipeline(checkpoint))
    calabi.run(pipeline(checkpoint), force=True)


def test_nan_names_the_layer(checkpoint):
    tensors = load_file(checkpoint)
    tensors["down.weight"][3, 4] = np.nan
    save_file(tensors, checkpoint)
    with pytest.raises(calabi.CalabiError, match="down"):
        calabi.run(pipeline(checkpoint))


def test_a_gate_that_is_not_met_is_no_exception(checkpoint):
    score = "import os, sys; print(os.path.getsize(sys.argv[1]))"
    verify = {"command": [sys.executable, "-c", score, "{model}"], "max_drop": 0}
    report = calabi.run(pipeline(checkpoint, verify=verify))
    assert not report.passed and report.verify.command.score.after < report.verify.command.score.before
    assert os.path.isfile(report.output) and not (checkpoint.parent / "small.safetensors").exists()


class Interrupting(Told):
    def step(self, stage, layer):
        super().step(stage, layer)
        if len(self.told) == 2:
            os.kill(os.getpid(), signal.SIGINT)


def test_control_c_ends_a_run(tmp_path, rng):
    big = {f"layers.{at}.weight": rng.normal(size=(768, 768)).astype(np.float32) for at in range(24)}
    save_file(big, tmp_path / "model.safetensors")
    told = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        calabi.run(pipeline(tmp_path / "model.safetensors"), progress=told)
    assert 1 <= sum(event[0] == "step" for event in told.told) < 24
    assert os.listdir(tmp_path) == ["model.safetensors"]


def program(*arguments):
    code = "import sys; from calabi._program import main; sys.argv[0] = 'calabi-cli'; main()"
    return [sys.executable, "-c", code, *map(str, arguments)]


def test_the_program_runs():
    ran = subprocess.run(program("--version"), capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout == f"calabi-cli {calabi.__version__}\n"
    ran = subprocess.run(program("run"), capture_output=True, text=True)
    assert ran.returncode == 2 and "Usage" in ran.stderr
    ran = subprocess.run(program("inspect", pathlib.Path("absent")), capture_output=True, text=True)
    assert ran.returncode in (1, 2, 4) and "absent" in ran.stderr
