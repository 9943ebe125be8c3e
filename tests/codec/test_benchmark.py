"""The codec's benchmark says what it promises; how fast a machine is decides nothing here."""

import json
from pathlib import Path

import pytest

from benchmarks import codec
from latent_ae.config import BottleneckConfig, ModelConfig
from latent_ae.models import build_autoencoder

FIELDS = {
    *(
        "benchmark",
        "preset",
        "model",
        "resolution",
        "turns",
        "device",
        "threads",
        "bf16_instructions",
        "bf16_instructions_how",
    ),
    *("precision", "seconds", "ratio", "ratio_of_each_turn", "error", "peak_memory_mib", "peak_memory_how"),
    *("predicted_memory_mib", "tflop", "matmul_tflops", "share_of_matmul", "skipped", "versions"),
}


@pytest.mark.slow  # writes graphs where the packages for them are there
def test_it_prints_one_line_of_json(capfd: pytest.CaptureFixture[str]) -> None:
    argv = ["--preset", "tiny", "--resolution", "32", "--turns", "3", "--device", "cpu"]
    assert codec.main(argv) == 0
    out = capfd.readouterr().out
    assert out.count("\n") == 1
    line = json.loads(out)
    assert line.keys() == FIELDS
    sides = {"ours", "diffusers", *codec.RUNTIMES} - line["skipped"].keys()
    for direction in ("encode", "decode"):
        seconds = line["seconds"][direction]
        assert seconds.keys() == sides
        assert line["peak_memory_mib"][direction].keys() == {"ours", "diffusers"}
        assert line["ratio"][direction].keys() == sides - {"ours"}
        assert line["ratio"][direction]["diffusers"] == pytest.approx(seconds["diffusers"] / seconds["ours"], rel=1e-2)
        assert len(line["ratio_of_each_turn"][direction]) == 3
        work = line["tflop"][direction] / seconds["ours"] / line["matmul_tflops"]["float32"]
        assert line["share_of_matmul"][direction] == pytest.approx(work, rel=0.05, abs=1e-4)
    assert line["error"]["encode"]["diffusers"] == 0
    # Without instructions for bf16 all of them compute in float32; with them ours may be within the codec's check.
    assert max(line["error"]["encode"].values()) < (0.01 if line["bf16_instructions"] else 1e-4)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--turns", "0"], "--turns must be 1 or more, got 0"),
        (["--preset", "vq-f8"], "invalid choice: 'vq-f8'"),
    ],
)
def test_what_cannot_be_measured_is_refused(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        codec.main(argv)
    assert message in capsys.readouterr().err


def test_a_size_that_the_factor_does_not_divide_and_a_model_with_codes_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert codec.main(["--preset", "tiny", "--resolution", "17"]) == 2
    assert "17 is not a multiple of the model's factor 2" in capsys.readouterr().err
    build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=16).save_pretrained(tmp_path / "kl")
    assert codec.main(["--model", str(tmp_path / "kl"), "--resolution", "17"]) == 2
    assert capsys.readouterr().err == "error: --resolution must be a multiple of 2, got 17\n"
    bottleneck = BottleneckConfig(kind="vq", codebook_size=8, code_channels=2)
    build_autoencoder(ModelConfig(preset="tiny"), bottleneck, seed=0, resolution=16).save_pretrained(tmp_path / "vq")
    assert codec.main(["--model", str(tmp_path / "vq"), "--resolution", "16"]) == 2
    assert "has codes" in capsys.readouterr().err
