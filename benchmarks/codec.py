"""Our codec against stock diffusers, and ONNX Runtime and OpenVINO where they are installed: prints one JSON line.

    python benchmarks/codec.py --preset sd --resolution 256

All code the same image with the same stock AutoencoderKL, of random weights unless a --model is given. They take turns
in one process, so that a machine that slows down slows all. Progress goes to stderr.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import latent_ae  # noqa: F401  # before diffusers: makes torchvision importable

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from diffusers import AutoencoderKL

from benchmarks.machine import bf16_support, device_name, matmul_tflops, peak_memory, rounded, wait_for
from latent_ae.config import ModelConfig
from latent_ae.errors import UserError
from latent_ae.evaluation.metrics.quality import psnr
from latent_ae.export.graphs import programs
from latent_ae.inference import PRECISIONS, Codec
from latent_ae.inference.precision import form_of
from latent_ae.inference.probe_image import photo_like
from latent_ae.inference.sides import DecoderSide, EncoderSide, Side
from latent_ae.models import PRESETS, build_autoencoder, factor_of, load_autoencoder

SEED = 0
RUNTIMES = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Coder:
    """Both directions of something that codes: pixels [1,C,H,W] => latents [1,c,h,w], and back."""

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]


def stock(model: AutoencoderKL) -> Coder:
    """As diffusers' documentation shows it: float32, eager, no gradients."""

    @torch.no_grad()
    def encode(pixels: Tensor) -> Tensor:
        latents: Tensor = model.encode(pixels.to(model.device)).latent_dist.mode()
        return latents.cpu()

    @torch.no_grad()
    def decode(latents: Tensor) -> Tensor:
        pixels: Tensor = model.decode(latents.to(model.device)).sample
        return pixels.cpu()

    return Coder(encode, decode)


def runtimes(model: AutoencoderKL, folder: Path) -> tuple[dict[str, Coder], dict[str, str]]:
    """What is installed of RUNTIMES, on ONNX graphs of the model, and why the others are left out."""
    needed = {"onnxruntime": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}
    missing = {name: [each for each in needed[name] if importlib.util.find_spec(each) is None] for name in RUNTIMES}
    skipped = {name: f"not installed: {', '.join(parts)}" for name, parts in missing.items() if parts}
    if model.device.type != "cpu":
        skipped |= dict.fromkeys(RUNTIMES, "compared on the CPU alone")
    found: dict[str, Coder] = {}
    if len(skipped) < len(RUNTIMES):
        say("writing ONNX graphs")
        files = [folder / "encoder.onnx", folder / "decoder.onnx"]
        for file, program in zip(files, programs(model), strict=True):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's converter warns of its own use of torch
                exported = torch.onnx.export(program, dynamo=True, opset_version=20, verbose=False)
            assert exported is not None
            exported.save(file)
        start: Mapping[str, Callable[[Path], Callable[[Tensor], Tensor]]] = {
            "onnxruntime": onnx_session,
            "openvino": openvino_request,
        }
        channels = int(model.config["latent_channels"])
        for name in RUNTIMES:
            if name not in skipped:
                encoder, decoder = (start[name](file) for file in files)
                found[name] = Coder(partial(_channels, encoder, channels), decoder)
    return found, skipped


def _channels(run: Callable[[Tensor], Tensor], count: int, pixels: Tensor) -> Tensor:
    """The first `count` channels of the moments: the mean."""
    return run(pixels)[:, :count]


def onnx_session(file: Path) -> Callable[[Tensor], Tensor]:
    """A graph in ONNX Runtime on the CPU."""
    import onnxruntime  # noqa: PLC0415  # need not be installed

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda inputs: torch.from_numpy(session.run(None, {name: inputs.numpy()})[0])


def openvino_request(file: Path) -> Callable[[Tensor], Tensor]:
    """A graph in OpenVINO on the CPU, in float32."""
    import openvino  # noqa: PLC0415  # need not be installed

    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    compiled: Any = openvino.Core().compile_model(str(file), "CPU", settings)
    return lambda inputs: torch.from_numpy(compiled(inputs.numpy())[0].copy())


def measure(given: argparse.Namespace, device: torch.device, folder: Path) -> dict[str, object]:
    """Everything that the line says."""
    model = network(given).to(device).eval()
    say("choosing precisions")
    codec = Codec(model, name=given.model or given.preset, precision=given.precision, tile=None)
    say(str(codec.precision))
    others, skipped = runtimes(model, folder)
    for name, reason in skipped.items():
        say(f"{name} is left out: {reason}")
    coders = {"ours": Coder(codec.encode_tensor, codec.decode_tensor), "diffusers": stock(model), **others}
    pixels = photo_like(int(model.config["in_channels"]), given.resolution)
    latents = coders["diffusers"].encode(pixels)
    work = {
        direction: {name: partial(getattr(coder, direction), inputs) for name, coder in coders.items()}
        for direction, inputs in (("encode", pixels), ("decode", latents))
    }
    support, how = bf16_support(device)
    forms = {"encode": codec.precision.encoder, "decode": codec.precision.decoder}
    seconds, outputs = {}, {}
    for each, sides in work.items():
        seconds[each], outputs[each] = take_turns(sides, given.turns, device, each)
    medians = {each: {name: statistics.median(turns) for name, turns in seconds[each].items()} for each in work}
    formats = compare_formats(model, pixels, latents, turns=given.turns, bf16=support)
    say("memory and operations")
    # The runtimes keep what they have ever taken, so that their growth would say nothing.
    memory = {
        each: {name: peak_memory(sides[name], device) for name in ("ours", "diffusers")} for each, sides in work.items()
    }
    tflop = {each: operations(sides["diffusers"]) for each, sides in work.items()}
    dtypes = {each: form.chosen.dtype for each, form in forms.items()}
    peaks = {
        dtype: matmul_tflops(dtype, device, native=dtype is torch.float32 or support) for dtype in {*dtypes.values()}
    }
    return {
        "benchmark": "codec",
        "preset": None if given.model else given.preset,
        "model": given.model,
        "resolution": given.resolution,
        "turns": given.turns,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "bf16_instructions": support,
        "bf16_instructions_how": how,
        "precision": {each: str(form.chosen) for each, form in forms.items()},
        "seconds": {each: each_rounded(medians[each]) for each in work},
        "ratio": {each: each_rounded(against_ours(medians[each])) for each in work},
        "ratio_of_each_turn": {
            each: [rounded(theirs / ours) for ours, theirs in zip(turns["ours"], turns["diffusers"], strict=True)]
            for each, turns in seconds.items()
        },
        "error": {
            "encode": {name: relative(got, latents) for name, got in outputs["encode"].items()},
            "decode_psnr_db": {
                name: decibel(got, outputs["decode"]["diffusers"]) for name, got in outputs["decode"].items()
            },
        },
        "formats": formats,
        "peak_memory_mib": {each: {name: round(peak, 1) for name, (peak, _) in memory[each].items()} for each in work},
        "peak_memory_how": memory["encode"]["ours"][1],
        "predicted_memory_mib": {
            "encode": round(codec.plan(given.resolution, given.resolution).encode_bytes / 2**20, 1),
            "decode": round(codec.plan(given.resolution, given.resolution).decode_bytes / 2**20, 1),
        },
        "tflop": each_rounded(tflop),
        "matmul_tflops": {str(dtype).removeprefix("torch."): rounded(peak) for dtype, peak in peaks.items()},
        "share_of_matmul": {each: rounded(tflop[each] / medians[each]["ours"] / peaks[dtypes[each]]) for each in work},
        "skipped": skipped,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("torch", "diffusers", *others)},
        },
    }


def network(given: argparse.Namespace) -> AutoencoderKL:
    """The model that was asked for. Raises UserError for one that has codes, and a size its factor does not divide."""
    if given.model is None:
        return build_autoencoder(ModelConfig(preset=given.preset), seed=SEED, resolution=given.resolution)
    model = load_autoencoder(given.model)
    if not isinstance(model, AutoencoderKL):
        raise UserError(f"{given.model} has codes, and the runtimes' graphs would give others: take an AutoencoderKL")
    if given.resolution % factor_of(model):
        raise UserError(f"--resolution must be a multiple of {factor_of(model)}, got {given.resolution}")
    return model


def take_turns(
    sides: Mapping[str, Callable[[], Tensor]], turns: int, device: torch.device, direction: str
) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """Seconds of each turn of each side, after one of warm-up that is not counted; what each side gave."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    outputs: dict[str, Tensor] = {}
    for turn in range(turns + 1):
        for name, run in sides.items():
            wait_for(device)
            start = time.perf_counter()
            outputs[name] = run()
            wait_for(device)
            taken = time.perf_counter() - start
            say(f"{direction}, {f'turn {turn} of {turns}' if turn else 'warm-up'}: {name} {taken:.4g} s")
            if turn:
                seconds[name].append(taken)
    return seconds, outputs


def compare_formats(
    model: AutoencoderKL, pixels: Tensor, latents: Tensor, *, turns: int, bf16: bool
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Seconds and error of every format that the device has instructions for, by direction."""
    device = model.device
    precisions = ["exact", "fp32", *(["tf32", "fp16"] if device.type == "cuda" else []), *["bf16"] * bf16]
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    modules: dict[str, tuple[EncoderSide | DecoderSide, Tensor]] = {
        "encode": (EncoderSide(model), pixels),
        "decode": (DecoderSide(model), latents),
    }
    for direction, (module, inputs) in modules.items():
        forms = {precision: Side(module, form_of(precision, device)) for precision in precisions}
        sides = {name: partial(no_gradients, side, inputs) for name, side in forms.items()}
        seconds, outputs = take_turns(sides, turns, device, direction)
        means = {
            name: each[:, : module.channels].clamp(-1, 1) if direction == "decode" else each[:, : module.channels]
            for name, each in outputs.items()
        }
        measured = {
            name: decibel(each, means["exact"]) if direction == "decode" else relative(each, means["exact"])
            for name, each in means.items()
        }
        found[direction] = {
            name: {"seconds": rounded(statistics.median(seconds[name])), "error": measured[name]} for name in forms
        }
    return found


def no_gradients(side: Side, inputs: Tensor) -> Tensor:
    """What a side gives, on the CPU."""
    with torch.no_grad():
        return side(inputs).cpu()


def operations(run: Callable[[], Tensor]) -> float:
    """TFLOP of the stock model's layers, a multiply-add being two."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops()) / 1e12


def against_ours(seconds: Mapping[str, float]) -> dict[str, float]:
    """How many times as fast ours is."""
    return {name: taken / seconds["ours"] for name, taken in seconds.items() if name != "ours"}


def relative(latents: Tensor, reference: Tensor) -> float:
    """Norm of the difference over the norm."""
    return float(f"{float((latents - reference).norm() / reference.norm()):.3g}")


def decibel(pixels: Tensor, reference: Tensor) -> float | None:
    """PSNR, peak to peak 2; None where nothing differs."""
    value = float(psnr(pixels, reference.clamp(-1, 1)))
    return round(value, 1) if value < float("inf") else None


def each_rounded(values: Mapping[str, float]) -> dict[str, float]:
    """To four significant digits."""
    return {name: rounded(value) for name, value in values.items()}


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Measure and print the line; the exit status is 2 for something that cannot be measured here."""
    parser = argparse.ArgumentParser(description="Our codec against stock diffusers: one JSON line.")
    gaussian = sorted(name for name in PRESETS if not name.startswith("vq"))
    parser.add_argument("--preset", choices=gaussian, default="sd")
    parser.add_argument("--model", metavar="MODEL", help="a model directory, instead of a preset's random weights")
    parser.add_argument("--resolution", type=int, default=256, help="side of the image in pixels")
    parser.add_argument("--turns", type=int, default=5, help="of each side, after one of warm-up")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="ours")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    given = parser.parse_args(argv)
    if given.turns < 1:
        parser.error(f"--turns must be 1 or more, got {given.turns}")
    try:
        with tempfile.TemporaryDirectory() as folder:
            line = measure(given, torch.device(given.device), Path(folder))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
