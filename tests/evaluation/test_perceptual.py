"""The perceptual distances against stock lpips, and the weights that must never be silently random."""

import hashlib
import math
import warnings
from functools import cache
from pathlib import Path

import lpips
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

from latent_ae.errors import UserError
from latent_ae.evaluation.perceptual import PERCEPTUAL, PerceptualWeightsMissing, build_perceptual, distance_of, learned
from latent_ae.evaluation.perceptual import distance as distances
from latent_ae.io.image import WHITE
from latent_ae.io.pixel_format import PixelFormat

NETS = {"vgg": "vgg16", "alex": "alexnet", "squeeze": "squeezenet1_1"}


@cache
def random_backbone(name: str) -> dict[str, Tensor]:
    """Weights under torchvision's names, without building its classifiers (half a gigabyte for vgg16)."""
    with torch.device("meta"):
        features = getattr(torchvision.models, NETS[name])(weights=None).features
    generator = torch.Generator().manual_seed(1)
    return {
        f"features.{key}": torch.randn(value.shape, generator=generator) * math.sqrt(2 / value[0].numel())
        if value.ndim == 4
        else 0.1 * torch.randn(value.shape, generator=generator)
        for key, value in features.state_dict().items()
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    for name in NETS:
        torch.save(random_backbone(name) | {"classifier.1.weight": torch.zeros(2, 2)}, folder / f"{name}.pth")
    return {name: folder / f"{name}.pth" for name in NETS}


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No weights cached, and nothing to be reached: a proxy on a port that nobody listens on."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    for variable in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "checkpoints"


def stock_lpips(name: str) -> nn.Module:
    """lpips.LPIPS with its own heads and `random_backbone`."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stock = lpips.LPIPS(net=name, pretrained=False, pnet_rand=True, verbose=False)
    stock = stock.to_empty(device="cpu")
    stock.scaling_layer = lpips.ScalingLayer()
    heads = torch.load(Path(lpips.__file__).parent / f"weights/v0.1/{name}.pth", map_location="cpu", weights_only=True)
    for layer, head in enumerate(stock.lins):
        head.model[1].weight.data = heads[f"lin{layer}.model.1.weight"]
    for parameter_name, parameter in stock.net.named_parameters():
        parameter.data = random_backbone(name)[f"features.{parameter_name.split('.', 1)[1]}"]
    return stock.eval()


def pair(channels: int = 3, side: int = 32, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    target = torch.rand(batch, channels, side, side, generator=generator) * 2 - 1
    noise = torch.randn(target.shape, generator=generator) * torch.linspace(0.1, 0.3, batch)[:, None, None, None]
    return (target + noise).clamp(-1, 1), target


@pytest.mark.parametrize("name", NETS)
def test_equals_stock_lpips(name: str, files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    state = torch.get_rng_state()
    ours = build_perceptual(name, image_channels=3, weights_file=files[name])
    assert torch.equal(torch.get_rng_state(), state)
    assert capsys.readouterr() == ("", "")
    reconstruction, target = pair()
    (twin := reconstruction.clone()).requires_grad_()
    expected = stock_lpips(name)(twin, target).flatten()
    got = ours(reconstruction.requires_grad_(), target)
    assert got.shape == (2,)
    assert expected.min() > 1e-3
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    expected.sum().backward()
    got.sum().backward()
    torch.testing.assert_close(reconstruction.grad, twin.grad, rtol=1e-4, atol=1e-7)
    assert hashlib.sha256(files[name].read_bytes()).hexdigest()[:16] in ours.protocol
    assert "not torchvision's" in ours.protocol


def test_grey_images_are_repeated(files: dict[str, Path]) -> None:
    grey = build_perceptual("squeeze", image_channels=1, weights_file=files["squeeze"])
    rgb = build_perceptual("squeeze", image_channels=3, weights_file=files["squeeze"])
    reconstruction, target = pair(channels=1)
    expected = rgb(reconstruction.repeat(1, 3, 1, 1), target.repeat(1, 3, 1, 1))
    torch.testing.assert_close(grey(reconstruction, target), expected)


@pytest.mark.parametrize("name", ["random_features", "squeeze"])
def test_gradient_reaches_the_reconstruction_alone(name: str, files: dict[str, Path]) -> None:
    distance = build_perceptual(name, image_channels=3, weights_file=files.get(name))
    reconstruction, target = (images.requires_grad_() for images in pair())
    distance.train()(reconstruction, target).sum().backward()
    assert reconstruction.grad is not None
    assert reconstruction.grad.abs().amax((1, 2, 3)).min() > 0
    assert target.grad is None
    assert not any(parameter.requires_grad for parameter in distance.parameters())
    assert not any(module.training for module in distance.modules())


def test_no_response_gives_no_nan(files: dict[str, Path], tmp_path: Path) -> None:
    """Where every feature is 0, the square root in the unit length has an infinite gradient."""
    torch.save({key: torch.zeros_like(value) for key, value in random_backbone("squeeze").items()}, tmp_path / "0.pth")
    distance = build_perceptual("squeeze", image_channels=3, weights_file=tmp_path / "0.pth")
    reconstruction, target = pair()
    got = distance(reconstruction.requires_grad_(), target)
    got.sum().backward()
    assert got.tolist() == [0, 0]
    assert reconstruction.grad is not None
    assert reconstruction.grad.isfinite().all()


@pytest.mark.parametrize("name", ["random_features", "squeeze"])
def test_autocast_leaves_the_result_float32(name: str, files: dict[str, Path]) -> None:
    distance = build_perceptual(name, image_channels=3, weights_file=files.get(name))
    reconstruction, target = pair()
    with torch.autocast("cpu", torch.bfloat16):
        got = distance(reconstruction.requires_grad_(), target)
    assert got.dtype == torch.float32
    assert not torch.equal(got, distance(reconstruction, target))  # the network did run in bfloat16
    torch.testing.assert_close(got, distance(reconstruction, target), rtol=0.1, atol=0)
    got.sum().backward()
    assert reconstruction.grad is not None
    assert reconstruction.grad.abs().amax((1, 2, 3)).min() > 0


def test_safetensors_and_pth_are_the_same(files: dict[str, Path], tmp_path: Path) -> None:
    save_file(random_backbone("squeeze"), tmp_path / "squeeze.safetensors")
    distances = [
        build_perceptual("squeeze", image_channels=3, weights_file=path)(*pair())
        for path in (files["squeeze"], tmp_path / "squeeze.safetensors")
    ]
    assert torch.equal(*distances)


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", NETS)
def test_weights_that_cannot_be_had(name: str, empty_cache: Path) -> None:
    with pytest.raises(PerceptualWeightsMissing) as error:
        build_perceptual(name, image_channels=3)
    message = one_line(error)
    weights = {"vgg": "VGG16_Weights", "alex": "AlexNet_Weights", "squeeze": "SqueezeNet1_1_Weights"}
    address = getattr(torchvision.models, weights[name]).IMAGENET1K_V1.url
    for part in (address, str(empty_cache), "loss.perceptual_weights_file", "random_features"):
        assert part in message


def test_download_is_checked_and_cached(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, Path]
) -> None:
    content = files["squeeze"].read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    for prefix in ("00000000", sha256[:8]):
        (tmp_path / f"net-{prefix}.pth").write_bytes(content)

    monkeypatch.setattr(learned, "_public_address", lambda _: (tmp_path / "net-00000000.pth").as_uri())
    with pytest.raises(PerceptualWeightsMissing, match="invalid hash value"):
        build_perceptual("squeeze", image_channels=3)
    assert not list(empty_cache.iterdir())

    monkeypatch.setattr(learned, "_public_address", lambda _: (tmp_path / f"net-{sha256[:8]}.pth").as_uri())
    first = build_perceptual("squeeze", image_channels=3)
    (tmp_path / f"net-{sha256[:8]}.pth").unlink()
    again = build_perceptual("squeeze", image_channels=3)
    assert torch.equal(first(*pair()), again(*pair()))
    assert sha256[:16] in first.protocol
    assert "not torchvision's" not in first.protocol


def test_damaged_cache_is_refused(empty_cache: Path, files: dict[str, Path]) -> None:
    empty_cache.mkdir()
    cached = empty_cache / "squeezenet1_1-b8a52dc0.pth"
    cached.write_bytes(files["squeeze"].read_bytes())
    with pytest.raises(UserError, match="is damaged: its sha256 does not begin with b8a52dc0") as error:
        build_perceptual("squeeze", image_channels=3)
    assert str(cached) in one_line(error)


def test_wrong_files_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    weights = dict(random_backbone("squeeze"))
    incomplete, reshaped, nested = (tmp_path / f"{name}.pth" for name in ("incomplete", "reshaped", "nested"))
    torch.save({key: value for key, value in weights.items() if "features.12." not in key}, incomplete)
    torch.save(weights | {"features.0.weight": torch.zeros(64, 1, 3, 3)}, reshaped)
    torch.save({"state_dict": weights}, nested)
    (tmp_path / "cut.pth").write_bytes(files["squeeze"].read_bytes()[:5000])
    (tmp_path / "cut.safetensors").write_bytes(b"\xff" * 100)
    (tmp_path / "text.pth").write_text("not found\nsorry")
    for file, expected in {
        tmp_path / "absent.pth": "is not a file",
        incomplete: r"lacks features\.12\.squeeze\.weight, .* and 3 more",
        reshaped: r"features\.0\.weight is \(64, 1, 3, 3\) and must be \(64, 3, 3, 3\)",
        nested: r"lacks features\.0\.weight",
        tmp_path / "cut.pth": "is not a complete file of tensors",
        tmp_path / "cut.safetensors": "is not a complete file of tensors",
        tmp_path / "text.pth": "is not a complete file of tensors",
        files["alex"]: "holds other weights",
    }.items():
        with pytest.raises(UserError, match=expected) as error:
            build_perceptual("squeeze", image_channels=3, weights_file=file)
        assert str(file) in one_line(error)


def test_small_images_are_refused_where_the_network_ends(files: dict[str, Path]) -> None:
    for name in PERCEPTUAL:
        distance = build_perceptual(name, image_channels=3, weights_file=files.get(name))
        smallest = distance.minimum_side
        assert distance(*pair(side=smallest)).isfinite().all()
        with pytest.raises(ValueError, match=f"needs sides of at least {smallest} pixels") as error:
            distance(*pair(side=smallest - 1))
        one_line(error)
        if name != "random_features":  # and not earlier than it has to be
            distance.minimum_side = 1
            with pytest.raises(RuntimeError):
                distance(*pair(side=smallest - 1))


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown perceptual distance 'vgg19': choose from random_features, vgg"):
        build_perceptual("vgg19", image_channels=3)
    with pytest.raises(UserError, match="random_features has no weights file"):
        build_perceptual("random_features", image_channels=3, weights_file=tmp_path)
    with pytest.raises(ValueError, match="image_channels must be 1 or 3, got 4"):
        build_perceptual("random_features", image_channels=4)
    distance = build_perceptual("random_features", image_channels=3)
    with pytest.raises(ValueError, match=r"takes two \[B, 3, H, W\] batches of one shape"):
        distance(*pair(channels=1))


def digits(channels: int) -> tuple[Tensor, Tensor]:
    images = torch.tensor(load_digits().images[:4], dtype=torch.float32)[:, None] / 8 - 1
    shades = torch.tensor([1.0, 0.5, -0.25])[:channels, None, None]
    return images[:2] * shades, images[2:] * shades


@pytest.mark.parametrize(("channels", "expected"), [(1, [0.3748659, 0.4198951]), (3, [0.2398661, 0.1426157])])
def test_random_features_keep_their_values(channels: int, expected: list[float]) -> None:
    """A protocol that reports rely on: if these numbers change, it needs another name."""
    distance = build_perceptual("random_features", image_channels=channels)
    assert distance(*digits(channels)).tolist() == pytest.approx(expected, rel=1e-5)
    assert distance.protocol == f"random_features v1 (16-32-64), seed 0, {channels} channels"


def test_random_features_have_unit_scale_in_every_stage() -> None:
    state = torch.get_rng_state()
    distance = build_perceptual("random_features", image_channels=3)
    assert torch.equal(torch.get_rng_state(), state)
    one, other = torch.randn(2, 16, 3, 64, 64, generator=torch.Generator().manual_seed(7)).unbind()
    # Private, as the distance is one number over all stages.
    stages = zip(distance._features(one), distance._features(other), distance.scales, strict=True)
    for got, wanted, scale in stages:
        assert float((got - wanted).square().mean() / scale) == pytest.approx(1, abs=0.05)
    assert float(distance(one, other).mean()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("size", [(8, 8), (4, 4), (9, 13), (33, 20)])
def test_random_features_take_any_size(size: tuple[int, int]) -> None:
    distance = build_perceptual("random_features", image_channels=1)
    images = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(8)) * 2 - 1
    changed = images.clone()
    changed[1, 0, -1, -1] += 0.5
    got = distance(changed, images)
    assert got[0] == 0
    assert got[1] > 0


def test_random_features_see_structure_and_not_brightness() -> None:
    distance = build_perceptual("random_features", image_channels=1)
    image = digits(1)[0][:1].repeat_interleave(4, 2).repeat_interleave(4, 3) * 0.8
    blurred = nn.functional.avg_pool2d(nn.functional.pad(image, (2, 2, 2, 2), mode="replicate"), 5, 1)
    brighter = image + (blurred - image).square().mean().sqrt()
    assert distance(blurred, image) > 0.5 * (blurred - image).square().mean()
    assert distance(brighter, image) < 1e-6


@pytest.mark.parametrize("name", [*NETS, "random_features"])
def test_features_depend_on_nothing_beyond_the_margin(name: str, files: dict[str, Path]) -> None:
    distance = build_perceptual(name, image_channels=3, weights_file=files.get(name))
    image = torch.rand(1, 3, 416, 40, generator=torch.Generator().manual_seed(0), requires_grad=True)
    part = slice(192, 208)
    features = distance._features(image * 2 - 1)
    assert len(features) == len(distance.strides)
    total = sum(
        feature[:, :, part.start // stride : part.stop // stride].sum()
        for feature, stride in zip(features, distance.strides, strict=True)
    )
    total.backward()
    rows = image.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert part.start - distance.margin <= rows.min() < part.start
    assert part.stop <= rows.max() < part.stop + distance.margin


@pytest.mark.parametrize("name", [*NETS, "random_features"])
def test_a_large_image_is_measured_in_windows(
    name: str, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distances, "_WINDOW", 128)
    distance = build_perceptual(name, image_channels=3, weights_file=files.get(name))
    generator = torch.Generator().manual_seed(0)
    for size in [(171, 37), (33, 271)]:  # in pieces that no stride divides
        one, other = (torch.rand(1, 3, *size, generator=generator) * 2 - 1 for _ in range(2))
        assert distance.in_windows(one, other).tolist() == pytest.approx(distance(one, other).tolist(), rel=1e-5)


def test_windows_are_seen_through_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "_WINDOW", 16)
    form = PixelFormat(channels=5, numbers=True, rgb=(3, 2, 1))
    distance = distance_of(
        "random_features", form, background=WHITE, weights_file=None, setting="evaluation.perceptual"
    )
    one, other = (torch.rand(2, 5, 40, 40, generator=torch.Generator().manual_seed(s)) * 2 - 1 for s in (0, 1))
    assert distance.in_windows(one, other).tolist() == pytest.approx(distance(one, other).tolist(), rel=1e-5)
