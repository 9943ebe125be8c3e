"""What is predicted is what is counted by hand, what is measured, and what is refused before anything runs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from latent_ae.config import ModelConfig
from latent_ae.errors import UserError
from latent_ae.inference import Codec, DoesNotFit, batching, strips
from latent_ae.inference.memory import _Counter, _waste, amount, available_bytes, peak_bytes
from latent_ae.inference.sides import DecoderSide, EncoderSide
from latent_ae.inference.streamed import streamed
from latent_ae.inference.winograd import WinogradConv
from latent_ae.io.latent_file.latents import Compute
from latent_ae.models import build_autoencoder
from latent_ae.models.bottlenecks.vq import VQConfig
from tests.inference.side_runs import predictions, runs
from tests.models.stock_models import ARCHITECTURES, stock

CPU = torch.device("cpu")


def counted(module: nn.Module, *shape: int, channels_last: bool = True, dtype: torch.dtype = torch.float32) -> int:
    """The peak without what is added for the allocator; `peak_bytes` is monotonous in it."""
    told = peak_bytes(module, shape, dtype, channels_last=channels_last)
    counts = [count for count in range(0, 4 * told, 4) if count + _waste(count, "cpu") == told]
    assert counts
    return counts[0]


class Steps(nn.Module):
    """One tensor of n values in; two, one and four of them live at once."""

    def forward(self, inputs: Tensor) -> Tensor:
        doubled = inputs * 2
        inputs = doubled + 1  # the caller still holds what came in: 3 n
        del doubled
        outputs = torch.cat([inputs, inputs])  # 1 + 1 + 2
        return outputs[:1]  # a view is no new memory


def test_what_lives_at_the_same_time_is_counted_and_views_are_not() -> None:
    assert counted(Steps(), 1, 10, 1, 1) == 4 * 4 * 10


def test_a_convolution_needs_its_weights_again_and_in_torchs_order_its_inputs_and_outputs() -> None:
    convolution = nn.Conv2d(2, 3, 3, padding=1)
    inputs, outputs, weights = 4 * 2 * 64, 4 * 3 * 64, 4 * 2 * 3 * 9
    assert counted(convolution, 1, 2, 8, 8) == inputs + outputs + weights
    assert counted(convolution, 1, 2, 8, 8, channels_last=False) == 2 * (inputs + outputs) + weights
    assert convolution.weight.device == CPU


def test_winograds_algorithm_needs_its_inputs_with_margins_and_two_places_for_planes() -> None:
    """Of 16 numbers for 4 outputs, and for every channel of the wider side."""
    layer = WinogradConv(nn.Conv2d(2, 3, 3, padding=1))
    inputs, padded, outputs, planes = 4 * 2 * 48, 4 * 2 * 80, 4 * 3 * 48, 4 * 3 * 16 * 12
    assert counted(layer, 1, 2, 8, 6) == inputs + padded + outputs + 2 * planes
    counter = _Counter(reorders=False, emulated=False)
    values = torch.zeros(1, 2, 8, 6).contiguous(memory_format=torch.channels_last)
    counter.hold(values)
    with torch.no_grad(), counter:
        layer(values)
    assert counter.peak == inputs + padded + outputs + 2 * planes


def test_a_prediction_is_the_same_where_no_gradient_is_ever_wanted() -> None:
    convolution = nn.Conv2d(2, 3, 3, padding=1)
    expected = counted(convolution, 1, 2, 8, 8)
    with torch.inference_mode():
        assert counted(convolution, 1, 2, 8, 8) == expected


def test_half_precision_takes_half() -> None:
    assert counted(Steps(), 1, 10, 1, 1, dtype=torch.bfloat16) == 2 * 4 * 10


class Attention(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(inputs, inputs, inputs)


def test_attention_builds_no_matrix_of_pairs() -> None:
    assert counted(Attention(), 1, 1, 100, 8) == 2 * 4 * 800


def test_the_allowance_for_the_heap_grows_with_strips_and_not_otherwise() -> None:
    """Their blocks have many sizes, and what lies above those that are free keeps the heap from shrinking."""
    sizes = (2**20, 2**28, 2**32)
    assert [_waste(size, "cpu") for size in sizes] == [5 * 2**18, 160 * 2**20, 160 * 2**20]
    assert [_waste(size, "cpu", in_strips=True) for size in sizes] == [5 * 2**18, 320 * 2**20, 320 * 2**20]
    assert [_waste(size, "cuda", in_strips=True) for size in sizes] == [size // 4 for size in sizes]
    codec = tiny()
    peaks = [codec.plan(side, side).decode_bytes for side in (2048, 2056)]  # at once, and in strips
    assert peaks[1] < peaks[0]


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_architecture_is_predicted_without_a_copy_of_its_weights(name: str) -> None:
    codec = Codec(stock(name), name=name, precision="fp32")
    plan = codec.plan(64, 64)
    # At least what goes in and what comes out of the widest layer, at the full size.
    widest = codec.model.config["block_out_channels"][0]
    assert min(plan.encode_bytes, plan.decode_bytes) > 2 * 4 * widest * 64 * 64
    assert all(not weight.is_meta for weight in codec.model.parameters())


@pytest.mark.parametrize("size", [(120, 24), (48, 40)], ids=str)
def test_the_memory_of_strips_is_told_by_a_few_of_them(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What lives at the same time in all strips of a real run; a large image has thousands."""
    monkeypatch.setattr(strips, "_STRIP_BYTES", 1)
    monkeypatch.setattr(strips, "_BAND_BYTES", 1)
    model = stock("no attention")
    for side, shape in (
        (EncoderSide(model), (1, 3, *size)),
        (DecoderSide(model), (1, 4, *(each // 2 for each in size))),
    ):
        module = streamed(side)
        assert module is not None
        inputs = torch.zeros(shape).contiguous(memory_format=torch.channels_last)
        counter = _Counter(reorders=False, emulated=False)
        counter.hold(inputs)
        with torch.no_grad(), counter:
            module(inputs)
        assert 0.97 * counter.peak <= counted(module, *shape) <= 1.1 * counter.peak


def tiny(**options: object) -> Codec:
    model = build_autoencoder(ModelConfig(preset="tiny", image_channels=3), seed=0, resolution=16)
    return Codec(model, name="m", **{"precision": "fp32", **options})


def test_the_plan_of_a_large_image_is_that_of_its_tiles_and_of_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "_BAND_BYTES", 2**20)
    monkeypatch.setattr(batching, "STREAMED_PIXELS", 1)
    streamed = tiny(tile=None).plan(1024, 1024).decode_bytes
    monkeypatch.setattr(batching, "STREAMED_PIXELS", 2**30)
    tiled, whole = tiny(tile=64), tiny(tile=None)
    assert tiled.plan(64, 64).decode_bytes == whole.plan(64, 64).decode_bytes
    assert (tiled.plan(1024, 1024).tiles, whole.plan(1024, 1024).tiles) == (361, 1)
    image = 5 * 3 * 4 * (1024**2 - 64**2)
    assert tiled.plan(1024, 1024).decode_bytes == tiled.plan(64, 64).decode_bytes + image
    assert tiled.plan(1024, 1024).decode_bytes < whole.plan(1024, 1024).decode_bytes / 4
    assert tiled.plan(1024, 1024).decode_bytes < streamed < whole.plan(1024, 1024).decode_bytes / 1.5
    assert tiny(memory_bytes=1).plan(1024, 1024).decode_bytes == streamed  # the least that it takes


def test_the_plan_of_a_huge_image_costs_a_few_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little more operations than that of a quarter of it, which takes a quarter of the memory."""
    held: list[int] = []
    count = _Counter.hold
    monkeypatch.setattr(_Counter, "hold", lambda counter, tensor: held.append(1) or count(counter, tensor))
    codec, plans, operations = tiny(), [], []
    for height in (2**14, 2**16):
        held.clear()
        plans.append(codec.plan(height, 4096).decode_bytes)
        operations.append(len(held))
    assert operations[1] < 1.5 * operations[0]
    assert plans[1] == pytest.approx(4 * plans[0], rel=0.2)


def test_the_seconds_of_a_plan_grow_with_the_pixels_and_of_attention_with_their_square() -> None:
    codec = Codec(stock("stable diffusion"), name="m", precision="fp32")
    encoding, decoding = codec.paces
    assert min(encoding.per_pixel, encoding.per_pair, decoding.per_pixel, decoding.per_pair) > 0
    plan = codec.plan(797, 1003)  # padded to 800x1008
    expected = encoding.per_pixel * 800 * 1008 + encoding.per_pair * (800 * 1008) ** 2
    assert plan.encode_seconds == pytest.approx(expected)
    assert plan.decode_seconds == decoding.seconds(800 * 1008)
    tiled = Codec(stock("stable diffusion"), name="m", precision="fp32", tile=64)
    (pace, _), plan = tiled.paces, tiled.plan(800, 1000)
    assert plan.encode_seconds == pytest.approx(pace.per_pixel * 800 * 1000 + pace.per_pair * 800 * 1000 * 64**2)
    assert Codec(stock("no attention"), name="m", precision="fp32").paces[0].per_pair == 0


@pytest.mark.parametrize("verb", ["encode", "decode", "reconstruct"])
def test_what_does_not_fit_is_refused_before_any_work(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "STREAMED_PIXELS", 1)
    monkeypatch.setattr(strips, "_STRIP_BYTES", 1)
    monkeypatch.setattr(strips, "_BAND_BYTES", 1)
    roomy = tiny(tile=None)
    image = np.zeros((64, 64, 3), np.uint8)
    latents = roomy.encode([image])
    plan = roomy.plan(64, 64)
    least = {"encode": plan.encode_bytes, "decode": plan.decode_bytes, "reconstruct": plan.decode_bytes}[verb]
    given = latents if verb == "decode" else [np.zeros((8, 8, 3), np.uint8), image]
    assert getattr(tiny(tile=None, memory_bytes=least), verb)(given)
    monkeypatch.setattr(batching, "STREAMED_PIXELS", 2**30)
    codec, ran = tiny(tile=None, memory_bytes=least - 1), runs(monkeypatch)
    with pytest.raises(
        DoesNotFit, match=r"ing an image of 64x64 pixels even in strips of rows would take about \d+ MiB"
    ):
        getattr(codec, verb)(given)
    assert ran == []
    assert issubclass(DoesNotFit, UserError)


@pytest.mark.parametrize("precision", ["exact", "fp32"])
def test_what_does_not_fit_whole_goes_through_in_strips(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same values up to the order of sums: `exact`, which promises the same bits, says that it was not."""
    monkeypatch.setattr(strips, "_STRIP_BYTES", 1)
    monkeypatch.setattr(strips, "_BAND_BYTES", 1)
    roomy = tiny(precision=precision)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    plan = roomy.plan(64, 96)
    scarce = tiny(precision=precision, memory_bytes=min(plan.encode_bytes, plan.decode_bytes) - 1)
    assert scarce.plan(64, 96).decode_bytes <= scarce.memory_bytes
    ran = runs(monkeypatch)
    (whole,), (latents,) = roomy.encode([image]), scarce.encode([image])
    (decoded,) = scarce.decode_measured([whole])
    assert [run.in_strips for run in ran] == [False, True, True]
    torch.testing.assert_close(latents.tensor, whole.tensor, rtol=0, atol=1e-5)
    assert np.abs(decoded.image.astype(int) - roomy.decode([whole])[0]).max() <= 1
    assert whole.compute == Compute(precision)
    assert latents.compute == decoded.compute == scarce.compute("encoder", 64, 96) == Compute("fp32")


def test_a_batch_is_as_large_as_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = tiny(tile=None, memory_bytes=3 * tiny(tile=None).plan(64, 64).decode_bytes)
    ran = runs(monkeypatch)
    codec.decode_tensor(torch.zeros(8, 2, 32, 32))
    assert [run.shape for run in ran] == [(2, 2, 32, 32)] * 4


def test_where_there_is_room_no_size_is_predicted_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = tiny(tile=64)
    ordinary = codec.plan(64, 64).decode_bytes
    predicted = predictions(monkeypatch)
    for shape in [(1, 2, 32, 32), (3, 2, 8, 30), (2, 2, 40, 32), (1, 2, 5, 90)]:
        codec.decode_tensor(torch.zeros(shape))
    assert predicted == []
    codec.decode_tensor(torch.zeros(2, 2, 24, 32))
    assert predicted == [(2, 2, 24, 32)]
    scarce = tiny(tile=64, memory_bytes=2 * ordinary)
    scarce.decode_tensor(torch.zeros(1, 2, 8, 8))
    assert predicted[1:] == [(1, 2, 32, 32), (1, 2, 8, 8)]


def test_the_advice_is_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "_STRIP_BYTES", 1)
    monkeypatch.setattr(strips, "_BAND_BYTES", 1)

    def limited(memory: int | None, tile: int | None = None) -> Codec:
        return Codec(stock("no attention"), name="m", precision="fp32", memory_bytes=memory, tile=tile)

    memory = limited(None).plan(256, 256).decode_bytes
    with pytest.raises(
        DoesNotFit, match=r"MiB are free: \d+x\d+ pixels would fit, or --tile 128, an approx"
    ) as refused:
        limited(memory).require_room([(300, 600)])
    height, width = refused.value.largest
    assert width == pytest.approx(2 * height, abs=16)
    limited(memory).require_room([(height, width)])
    with pytest.raises(DoesNotFit):
        limited(memory).require_room([(round(1.15 * height), round(1.15 * width))])
    limited(memory, tile=128).require_room([(300, 600)])
    with pytest.raises(DoesNotFit, match=r"pixels would fit, or --tile 64, an approximation$"):
        limited(memory * 4 // 5, tile=128).require_room([(300, 600)])


def test_where_nothing_fits_the_memory_is_too_small() -> None:
    with pytest.raises(DoesNotFit, match=r"free: take a smaller image, or free some memory$"):
        tiny(memory_bytes=1000).require_room([(64, 64)])


def test_after_memory_ran_out_at_most_half_of_the_image_is_advised() -> None:
    assert tiny().advice("decoder", 64, 256) == "180x44 pixels would fit, or --tile 128, an approximation"


def test_the_search_for_codes_is_bounded() -> None:
    """1024 positions and 20,000 codes are more than are compared at once."""
    bottleneck = VQConfig(codebook_size=20_000, code_channels=2)
    model = build_autoencoder(ModelConfig(preset="tiny"), bottleneck, seed=0, resolution=16)
    codebook = Codec(model, name="m", precision="fp32").codebook
    vectors = torch.randn(1, 2, 32, 32, generator=torch.Generator().manual_seed(0)) / 20_000
    points = vectors.movedim(1, -1).flatten(0, 2)
    codes = codebook.nearest(vectors).flatten()
    for some in (slice(0, 30), slice(-30, None)):  # in the first part and in the last
        assert torch.equal(codes[some], torch.cdist(points[some], model.quantize.embedding.weight).argmin(1))


def test_amounts_are_for_people() -> None:
    assert [amount(count) for count in (0, 954 * 2**20, 2**30, 13 * 2**29)] == [
        "0 MiB",
        "954 MiB",
        "1.0 GiB",
        "6.5 GiB",
    ]


def test_without_proc_and_cgroups_the_machines_memory_counts(tmp_path: Path) -> None:
    """As on macOS."""
    assert available_bytes(CPU, cgroup=tmp_path / "none", groups=tmp_path / "none") > 2**20


def test_a_container_may_have_less_than_the_machine(tmp_path: Path) -> None:
    free = available_bytes(CPU, cgroup=tmp_path)
    assert free > 2**20
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.stat").write_text("anon 600\ninactive_file 100\n")
    (tmp_path / "memory.current").write_text("700\n")
    assert abs(available_bytes(CPU, cgroup=tmp_path) - free) < 2**30
    (tmp_path / "memory.max").write_text("1000\n")
    assert available_bytes(CPU, cgroup=tmp_path) == 400
    (tmp_path / "memory.max").write_text("500\n")
    assert available_bytes(CPU, cgroup=tmp_path) == 0


def test_the_older_kind_of_container_too(tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text("1000\n")
    (folder / "memory.usage_in_bytes").write_text("900\n")
    (folder / "memory.stat").write_text("total_inactive_file 50\n")
    assert available_bytes(CPU, cgroup=tmp_path) == 150


def limited(group: Path, most: int, used: int) -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.max").write_text(f"{most}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text("inactive_file 0\n")


def test_a_limit_of_the_processs_own_group_or_of_one_above_holds(tmp_path: Path) -> None:
    """As systemd sets MemoryMax= for a unit or for a slice."""
    tree, groups = tmp_path / "cgroup", tmp_path / "groups"
    groups.write_text("0::/system.slice/latent-ae.service\n")
    limited(tree / "system.slice" / "latent-ae.service", 1000, 300)
    assert available_bytes(CPU, cgroup=tree, groups=groups) == 700
    limited(tree / "system.slice", 5000, 4500)
    assert available_bytes(CPU, cgroup=tree, groups=groups) == 500
    limited(tree / "user.slice", 10, 10)
    assert available_bytes(CPU, cgroup=tree, groups=groups) == 500
    groups.write_text("0::/a/group/of/the/host\n")  # a container that sees its own as the top
    limited(tree, 900, 100)
    assert available_bytes(CPU, cgroup=tree, groups=groups) == 800


def test_so_it_does_in_the_older_kind_of_tree(tmp_path: Path) -> None:
    groups, group = tmp_path / "groups", tmp_path / "memory" / "slice" / "unit"
    groups.write_text("5:cpu,cpuacct:/elsewhere\n4:memory:/slice/unit\n1:name=systemd:/x:y\n0::/x\n")
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("1000\n")
    (group / "memory.usage_in_bytes").write_text("900\n")
    (group / "memory.stat").write_text("total_inactive_file 50\n")
    assert available_bytes(CPU, cgroup=tmp_path, groups=groups) == 150


PROGRAM = """
import sys
from functools import partial
import torch
from benchmarks.machine import peak_memory
from latent_ae.inference import Codec, memory
from latent_ae.config import ModelConfig
from latent_ae.models import build_autoencoder
torch.set_num_threads(1)
memory._waste = lambda peak, device, **_: 0  # an allowance for a heap that is switched off here
side = 160
config = ModelConfig(
    preset="kl-f4", block_out_channels=(96, 128), layers_per_block=1, norm_num_groups=8, mid_block_add_attention=False
)
model = build_autoencoder(config, seed=0, resolution=64)
for precision in sys.argv[1:]:
    codec = Codec(model, name="m", precision=precision, tile=None)
    codec.decode_tensor(codec.encode_tensor(torch.zeros(1, 3, 16, 16)))
    plan = codec.plan(side, side)
    latents = torch.randn(1, 3, side // 2, side // 2)
    encoding, _ = peak_memory(partial(codec.encode_tensor, torch.zeros(1, 3, side, side)), torch.device("cpu"))
    decoding, _ = peak_memory(partial(codec.decode_tensor, latents), torch.device("cpu"))
    print(plan.encode_bytes / 2**20 / encoding, plan.decode_bytes / 2**20 / decoding)
"""


@pytest.mark.slow  # starts a process, and images large enough to be seen in what it takes
@pytest.mark.parametrize(("isa", "precisions"), [("AVX2", ["bf16"]), ("ALL", ["exact", "fp32", "bf16"])])
def test_the_prediction_is_near_what_is_measured(isa: str, precisions: list[str]) -> None:
    """Of the growth of the resident set, where glibc gives every freed block back, so that no chance is in it.

    With bfloat16 emulated and not: without instructions for it, convolutions unfold their input.
    """
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "ONEDNN_MAX_CPU_ISA": isa}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *precisions],
        cwd=Path(__file__).parents[2],
        env=os.environ | settings,
        capture_output=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr.decode()
    ratios = [float(ratio) for ratio in done.stdout.split()]
    assert len(ratios) == 2 * len(precisions)
    assert 0.9 < min(ratios) <= max(ratios) < 1.6, ratios
