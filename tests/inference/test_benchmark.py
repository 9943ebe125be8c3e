"""The codec's benchmark says what it promises; how fast a machine is decides nothing here."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import codec
from latent_ae.config import ModelConfig
from latent_ae.models import build_autoencoder
from latent_ae.models.bottlenecks.vq import VQConfig

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
    *("precision", "seconds", "ratio", "ratio_of_each_turn", "error", "formats", "peak_memory_mib", "peak_memory_how"),
    *("predicted_memory_mib", "tflop", "matmul_tflops", "share_of_matmul", "skipped", "versions"),
}


ROUNDED = 3e-3
"""what four numbers of four digits each may be off by together, relative"""


@pytest.mark.slow  # writes graphs where the packages for them are there
@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16")])
def test_it_prints_one_line_of_json(
    precision: str, dtype: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In either precision on any processor: one without instructions for bfloat16 emulates it."""
    monkeypatch.setattr(codec, "matmul_tflops", lambda dtype, device, native: 0.25 if dtype == torch.float32 else 0.5)
    argv = ["--preset", "tiny", "--resolution", "32", "--turns", "3", "--device", "cpu", "--precision", precision]
    assert codec.main(argv) == 0
    out = capfd.readouterr().out
    assert out.count("\n") == 1
    line = json.loads(out)
    assert line.keys() == FIELDS
    assert line["matmul_tflops"] == {dtype: {"float32": 0.25, "bfloat16": 0.5}[dtype]}
    sides = {"ours", "diffusers", *codec.RUNTIMES} - line["skipped"].keys()
    for direction in ("encode", "decode"):
        seconds = line["seconds"][direction]
        assert seconds.keys() == sides
        assert line["precision"][direction] == f"{precision} channels-last{' Winograd' * (precision == 'fp32')}"
        assert line["peak_memory_mib"][direction].keys() == {"ours", "diffusers"}
        assert line["ratio"][direction].keys() == sides - {"ours"}
        ratio = seconds["diffusers"] / seconds["ours"]
        assert line["ratio"][direction]["diffusers"] == pytest.approx(ratio, rel=ROUNDED)
        assert len(line["ratio_of_each_turn"][direction]) == 3
        work = line["tflop"][direction] / seconds["ours"] / line["matmul_tflops"][dtype]
        assert line["share_of_matmul"][direction] == pytest.approx(work, rel=ROUNDED)
        formats = line["formats"][direction]
        assert formats.keys() == {"exact", "fp32"} | ({"bf16"} if line["bf16_instructions"] else set())
        assert all(each["seconds"] > 0 for each in formats.values())
    assert line["error"]["encode"]["diffusers"] == line["formats"]["encode"]["exact"]["error"] == 0
    assert 0 < line["error"]["encode"]["ours"] < (1e-5 if precision == "fp32" else 0.02)


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
    bottleneck = VQConfig(codebook_size=8, code_channels=2)
    build_autoencoder(ModelConfig(preset="tiny"), bottleneck, seed=0, resolution=16).save_pretrained(tmp_path / "vq")
    assert codec.main(["--model", str(tmp_path / "vq"), "--resolution", "16"]) == 2
    assert "has codes" in capsys.readouterr().err
