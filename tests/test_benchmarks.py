"""The benchmarks say what they promise; how fast a machine is decides nothing here."""

import argparse
import json
from collections.abc import Iterator

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

from benchmarks import any_size, encode_dataset, process, read_numbers, train_step, worker_samples
from benchmarks.machine import bf16_support, matmul_tflops, peak_memory
from latent_ae.config import ModelConfig
from latent_ae.models import build_autoencoder

FIELDS = {
    *("benchmark", "preset", "resolution", "batch", "perceptual", "compile", "memory_format", "steps", "blocks"),
    *("device", "threads", "bf16_instructions", "bf16_instructions_how", "precision"),
    *("images_per_second", "ratio", "ratio_of_each_turn", "peak_memory_mib", "peak_memory_how"),
    *("tflop_per_step", "matmul_tflops", "share_of_matmul", "versions"),
}
CPU = torch.device("cpu")
ROUNDED = 3e-3
"""what four numbers of four digits each may be off by together, relative"""


@pytest.fixture(autouse=True)
def _accelerate_starts_afresh() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def setup(**changes: object) -> train_step.Setup:
    settings = {"preset": "tiny", "resolution": 16, "batch": 2, "precision": "no", "perceptual": "random_features"}
    return train_step.Setup(**(settings | {"compile": False, "channels_last": True, "device": CPU} | changes))


@pytest.mark.parametrize("channels_last", [True, False])
def test_both_sides_train_the_same(channels_last: bool) -> None:
    ours, example = train_step.losses_of_both(setup(channels_last=channels_last), 4)
    # Sums in another order differ by a few float32 roundings; the loss is a mean over 512 values.
    assert ours == pytest.approx(example, rel=1e-5)
    # The updates are part of what is compared, so they must show.
    assert len({round(loss, 4) for loss in ours}) == 4


@pytest.mark.parametrize("term", ["BETA", "PERCEPTUAL_WEIGHT"])
def test_the_comparison_would_notice_another_loss(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = train_step.losses_of_both(setup(), 1)[0]
    monkeypatch.setattr(train_step, term, 0.1)
    changed = train_step.losses_of_both(setup(), 1)
    assert changed[0] == pytest.approx(changed[1], rel=1e-5)
    assert changed[0] != pytest.approx(ours, rel=1e-3)


@pytest.mark.slow  # trains for a while
@pytest.mark.parametrize("bf16", [False, True])
def test_it_prints_one_line_of_json(
    bf16: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a processor that has instructions for bfloat16 and on one that has none, whichever this one is."""
    monkeypatch.setattr(train_step, "bf16_support", lambda device: (bf16, "as told"))
    monkeypatch.setattr(train_step, "matmul_tflops", lambda dtype, device, native: 0.5 if native else 0.25)
    argv = ["--preset", "tiny", "--resolution", "16", "--batch", "2", "--steps", "1", "--blocks", "2"]
    assert train_step.main([*argv, "--device", "cpu"]) == 0
    out = capfd.readouterr().out
    assert out.count("\n") == 1
    line = json.loads(out)
    assert line.keys() == FIELDS
    assert (line["preset"], line["resolution"], line["batch"], line["steps"], line["blocks"]) == ("tiny", 16, 2, 1, 2)
    assert line["bf16_instructions"] is bf16
    assert line["precision"] == {"ours": "bf16" if bf16 else "fp32", "example": "fp32"}
    assert line["memory_format"] == ("channels_last" if bf16 else "contiguous")
    assert line["matmul_tflops"] == {"fp32": 0.5, "bf16": 0.5 if bf16 else 0.25}
    speeds = line["images_per_second"]
    assert line["ratio"] == pytest.approx(speeds["ours"] / speeds["example"], rel=ROUNDED)
    assert len(line["ratio_of_each_turn"]) == 2
    assert line["share_of_matmul"] == pytest.approx(line["tflop_per_step"] * speeds["ours"] / 2 / 0.5, rel=ROUNDED)


def test_latents_are_made_beside_the_codec_and_a_plain_loop(capfd: pytest.CaptureFixture[str]) -> None:
    argv = ["--preset", "tiny", "--resolution", "16", "--images", "2", "--blocks", "1", "--device", "cpu"]
    assert encode_dataset.main(argv) == 0
    line = json.loads(capfd.readouterr().out)
    speeds = line["images_per_second"]
    assert speeds.keys() == {"ours", "codec", "plain"}
    assert line["share_of_codec"] == pytest.approx(speeds["ours"] / speeds["codec"], rel=ROUNDED)
    assert line["ratio_of_each_turn"] == [pytest.approx(speeds["ours"] / speeds["plain"], rel=ROUNDED)]
    assert line["precision"] == {"ours": "exact", "codec": "exact", "plain": "fp32"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--precision", "fp16", "--device", "cpu"], "--precision fp16 needs a GPU"),
        (["--blocks", "0"], "--blocks must be 1 or more, got 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        train_step.main(["--preset", "tiny", *argv])
    assert message in capsys.readouterr().err


def test_missing_weights_are_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*arguments: object, **options: object) -> None:
        raise OSError("the network is unreachable")

    monkeypatch.setenv("TORCH_HOME", "/nonexistent")
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    argv = ["--preset", "tiny", "--resolution", "16", "--perceptual", "vgg", "--device", "cpu"]
    assert train_step.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert sum(line.startswith("error: ") for line in captured.err.splitlines()) == 1


def test_memory_is_what_the_work_took_at_its_peak() -> None:
    def work() -> None:
        held = torch.ones(64 * 2**20, dtype=torch.uint8)
        for _ in range(20):
            held.add_(1)

    peak, how = peak_memory(work, CPU)
    assert 60 <= peak <= 80
    assert "VmHWM" in how


def test_operations_are_counted_as_the_layers_have_them() -> None:
    """A multiply-add is two operations, and a convolution's backward pass twice its forward pass."""
    with train_step.FlopCounterMode(display=False) as counter:
        convolution = torch.nn.Conv2d(8, 16, 3, padding=1)
        convolution(torch.ones(2, 8, 16, 16, requires_grad=True)).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * (2 * 16 * 16 * 16) * (8 * 3 * 3)


@pytest.mark.parametrize("bf16", [False, True])
def test_what_a_processor_has_is_told_as_the_codec_tells_it(monkeypatch: pytest.MonkeyPatch, bf16: bool) -> None:
    monkeypatch.setattr("benchmarks.machine.multiplies_bf16", lambda: bf16)
    assert bf16_support(CPU)[0] is bf16
    assert matmul_tflops(torch.float32, CPU, native=False) > 0


def test_reading_numbers_prints_one_line_with_a_ratio_for_each_case(capsys: pytest.CaptureFixture[str]) -> None:
    read_numbers.main(["--side", "16", "--files", "1", "--turns", "1"])  # which compares the values of both sides
    result = json.loads(capsys.readouterr().out)
    assert all(set(result[name]) == {"ours", "library", "ratio"} for name in read_numbers.CASES)


@pytest.mark.slow  # encodes and decodes by all five
def test_large_images_are_compared_at_every_size(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--preset", "tiny", "--resolutions", "32", "64", "--tile", "32", "--repeats", "1"]
    monkeypatch.setattr("sys.argv", ["any_size.py", *options])
    any_size.main()
    printed = json.loads(capfd.readouterr().out)
    assert list(printed["results"]) == ["32", "64"]
    for result in printed["results"].values():
        for direction in ("encode", "decode"):
            assert len(result[direction]) == 5
            assert result[direction]["ours in strips"]["largest_error"] < 1e-5
    tiled = printed["results"]["64"]["decode"]["ours in tiles of 32"]
    assert tiled["largest_error"] > 1e-3


def test_what_does_not_fit_into_memory_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(any_size, "available_bytes", lambda _: 0)
    model = build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=16).eval()
    given = argparse.Namespace(precision="fp32", tile=16, repeats=1, only=["ours"])
    result = any_size.at_resolution(model, 32, given)["encode"]
    assert list(result) == ["ours in strips", "ours in tiles of 16"]
    assert all(each["largest_error"] is None for each in result.values())


def test_samples_of_a_worker_print_one_line_with_ratios_of_the_same_pixels(capsys: pytest.CaptureFixture[str]) -> None:
    worker_samples.main(["--megapixels", "0.1", "--resolution", "16", "--samples", "1"])  # which compares the pixels
    result = json.loads(capsys.readouterr().out)
    for kind in worker_samples.kinds():
        assert set(result[kind]) == {"own size", "scaled", "center"}
        fields = {"ours", "kept", "whole", "ratio", "ratio_of_kept"}
        assert all(set(found) == fields for found in result[kind].values())


def test_turns_with_and_without_are_compared_by_their_medians() -> None:
    took = {True: iter([1.0, 9.0, 2.0]), False: iter([4.0, 3.0, 8.0])}
    order = []

    def turn(on: bool) -> dict[str, float]:
        order.append(on)
        return {"cpu": next(took[on])}

    assert process.compare(turn, 3) == {"cpu": [2.0, 4.0, 0.5]}
    assert order == [False, True, True, False, False, True]  # neither always has the other's heat


def test_the_best_run_of_a_process_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[None] = []
    monkeypatch.setitem(process.WORK, "nothing", lambda: lambda: runs.append(None))
    found = process.child("nothing")
    assert (set(found), len(runs)) == ({"cpu", "wall", "peak_mib"}, process.RUNS)
    assert found["peak_mib"] > 0
