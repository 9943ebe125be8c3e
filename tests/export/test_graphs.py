"""`latent-ae export onnx` and `pt2`: graphs of any batch, height and width."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from latent_ae.export import graphs
from latent_ae.export.exporter import export
from latent_ae.export.graphs import program_of, programs, sides
from latent_ae.export.proof import ProofFailed, answer
from latent_ae.export.pt2_programs import Pt2Programs
from latent_ae.export.source import ModelSource
from latent_ae.models import load_autoencoder
from latent_ae.models.errors import ModelError
from tests.export.conftest import Exports, Run, left
from tests.models.stock_models import ARCHITECTURES, stock


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_both_sides_are_the_model(name: str) -> None:
    model = stock(name)
    weights = {name: id(tensor) for name, tensor in model.named_parameters()}
    encoder, decoder = sides(model)
    pixels = torch.rand(3, model.config["in_channels"], 32, 48) * 2 - 1
    expected = answer(model, pixels)
    with torch.no_grad():
        if expected.codes is None:
            assert encoder(pixels).equal(expected.encoded)
            assert decoder(expected.latents).equal(expected.pixels)
        else:
            assert encoder(pixels).equal(expected.codes)
            torch.testing.assert_close(decoder(expected.codes), expected.pixels, rtol=1e-5, atol=1e-5)
    assert {name: id(tensor) for name, tensor in model.named_parameters()} == weights
    assert {
        id(tensor)
        for side in (encoder.state_dict(keep_vars=True), decoder.state_dict(keep_vars=True))
        for key, tensor in side.items()
        if "embedding" not in key
    } <= set(weights.values())


def test_a_batch_of_64_takes_no_other_way() -> None:
    model = stock("no attention")
    _, decoder = sides(model)
    latents = torch.randn(64, 4, 2, 2)
    with torch.no_grad():
        assert decoder(latents).equal(model.decode(latents).sample)


@pytest.mark.slow  # traces
def test_a_program_with_attention_runs_on_another_device() -> None:
    """`meta` stands for a GPU; on the CPU what was saved gives what the module gives."""
    attention = stock("one level").encoder.mid_block.attentions[0]
    stored = io.BytesIO()
    torch.export.save(program_of(attention, torch.zeros(2, 4, 8, 12), free=(2, 3)), stored)
    program = torch.export.load(stored)
    targets = {str(node.target) for node in program.graph.nodes}
    assert "aten.scaled_dot_product_attention.default" in targets
    assert "aten._assert_tensor_metadata.default" not in targets
    values = torch.rand(3, 4, 6, 10)
    module = program.module()
    with torch.no_grad():
        torch.testing.assert_close(module(values), attention(values), rtol=1e-5, atol=1e-5)
        assert module.to("meta")(values.to("meta")).shape == values.shape


@pytest.mark.slow
def test_onnx_has_the_names_and_places_of_optimum(kl: ModelSource, exports: Exports) -> None:
    import onnxruntime

    folder = exports("kl", "onnx").out
    assert left(folder) == ["export_report.json", "latent_stats.json", "vae_decoder", "vae_encoder"]
    ports = {}
    for name in ("vae_encoder", "vae_decoder"):
        assert left(folder / name) == ["config.json", "model.onnx"]
        config = (folder / name / "config.json").read_text()
        assert '"scaling_factor": 0.5' in config
        assert '"shift_factor": 0.25' in config
        session = onnxruntime.InferenceSession(folder / name / "model.onnx")
        ports[name] = [[port.name for port in side] for side in (session.get_inputs(), session.get_outputs())]
        assert session.get_modelmeta().custom_metadata_map["latent_ae.encoder_identity"] == kl.identity
        assert str(Path(torch.__file__).parent).encode() not in (folder / name / "model.onnx").read_bytes()
    assert ports == {"vae_encoder": [["sample"], ["latent_parameters"]], "vae_decoder": [["latent_sample"], ["sample"]]}
    # A batch above 64 and a single position, which nothing was traced with.
    for shape in ((70, 2, 3, 2), (1, 2, 1, 1)):
        latents = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        (pixels,) = session.run(None, {"latent_sample": latents})
        with torch.no_grad():
            expected = kl.model.decode(torch.from_numpy(latents)).sample
        assert np.abs(pixels - expected.numpy()).max() < 1e-4


@pytest.mark.slow
def test_a_vq_model_becomes_codes_and_comes_from_codes(vq: ModelSource, exports: Exports) -> None:
    import onnxruntime

    exported = exports("vq", "onnx")
    folder = exported.out
    assert {each.differing_codes for each in exported.proof.comparisons} >= {0}
    encoder, decoder = (
        onnxruntime.InferenceSession(folder / name / "model.onnx") for name in ("vqvae_encoder", "vqvae_decoder")
    )
    pixels = torch.rand(7, 1, 20, 10) * 2 - 1
    (codes,) = encoder.run(["indices"], {"sample": pixels.numpy()})
    expected = answer(vq.model, pixels)
    assert expected.codes is not None
    assert (codes.dtype, codes.shape) == (np.int64, (7, 10, 5))
    assert np.array_equal(codes, expected.codes.numpy())
    assert len(np.unique(codes)) > 16
    (decoded,) = decoder.run(["sample"], {"indices": codes})
    assert np.abs(decoded - expected.pixels.numpy()).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_a_program_keeps_nothing_for_gradients(kind: str, models: Path, exports: Exports) -> None:
    """Used as the documentation shows, without torch.no_grad; the model that was exported can still be trained."""
    source = ModelSource.load(str(models / kind))
    pixels = torch.rand(2, 1, 8, 12) * 2 - 1
    given = answer(source.model, pixels)
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    for side, inputs in (("encoder", pixels), ("decoder", given.latents if given.codes is None else given.codes)):
        program = torch.export.load(exports(kind, "pt2").out / f"{side}.pt2").module()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            assert not program(inputs).requires_grad
    assert kept == []
    programs(source.model)
    assert all(parameter.requires_grad for parameter in source.model.parameters())


@pytest.mark.slow
def test_a_program_that_keeps_what_gradients_need_fails_its_proof(
    kl: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trainable(*_arguments: object) -> list[torch.export.ExportedProgram]:
        made = programs(kl.model)
        for program in made:
            for parameter in program.parameters():
                parameter.requires_grad_()
        return list(made)

    monkeypatch.setattr(graphs, "programs", trainable)
    with pytest.raises(ProofFailed, match="keeps what gradients need"):
        export(kl, tmp_path / "vae", Pt2Programs())
    assert left(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnx", "pt2"])
@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_a_fixed_size_is_proven_at_that_size_and_refuses_others(
    kind: str, target: str, models: Path, tmp_path: Path, run: Run
) -> None:
    import onnxruntime

    out = tmp_path / "vae"
    status, _, errors = run("export", target, "--model", models / kind, "-o", out, "--size", "8x12")
    assert (status, errors) == (0, [])
    report = json.loads((out / "export_report.json").read_text())
    assert report["options"] == {"size": [8, 12]}
    assert {tuple(each["shape"]) for each in report["comparisons"]} == {(1, 1, 8, 12)}
    assert len({each["images"] for each in report["comparisons"]}) == 2

    if target == "onnx":
        session = onnxruntime.InferenceSession(next(out.glob("*_encoder")) / "model.onnx")
        assert session.get_inputs()[0].shape == [1, 1, 8, 12]
        assert all(isinstance(side, int) for side in session.get_outputs()[0].shape)

        def encode(pixels: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(session.run(None, {"sample": pixels.numpy()})[0])
    else:
        encode = torch.export.load(out / "encoder.pt2").module()

    model = ModelSource.load(str(models / kind)).model
    pixels = torch.rand(1, 1, 8, 12) * 2 - 1
    expected = answer(model, pixels)
    torch.testing.assert_close(encode(pixels), expected.encoded if expected.codes is None else expected.codes)
    for other in ((2, 1, 8, 12), (1, 1, 16, 12), (1, 1, 8, 8)):
        with pytest.raises(Exception, match=r"(?i)invalid dimensions|expected|guard"):
            encode(torch.zeros(other))


@pytest.mark.parametrize("size", ["512", "0x8", "8x-8", "8x8x8"])
def test_a_size_is_height_and_width(size: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("export", "pt2", "--model", "model", "-o", "vae", "--size", size)
    assert f"got {size!r}, expected height and width in pixels, such as 512x768" in capsys.readouterr().err


def test_a_size_that_the_factor_does_not_divide_is_refused(models: Path, tmp_path: Path, run: Run) -> None:
    status, _, errors = run("export", "pt2", "--model", models / "kl", "-o", tmp_path / "vae", "--size", "8x9")
    assert (status, left(tmp_path)) == (2, [])
    assert errors == ["size 8x9: both sides must be multiples of the model's factor 2"]


WITHOUT_DIFFUSERS = """
import sys
for name in ("diffusers", "latent_ae", "transformers", "torchvision"):
    sys.modules[name] = None
import torch
from pathlib import Path
folder, programs = map(Path, sys.argv[1:])
given = torch.load(folder / "given.pt")
for side in ("encoder", "decoder"):
    program = torch.export.load(programs / f"{side}.pt2").module()
    for inputs, expected in given[side]:
        with torch.no_grad():
            print(side, float((program(inputs).double() - expected.double()).abs().max()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_programs_run_without_diffusers_in_any_size(kind: str, tmp_path: Path, models: Path, exports: Exports) -> None:
    source = ModelSource.load(str(models / kind))
    programs = exports(kind, "pt2").out
    given = {"encoder": [], "decoder": []}
    for shape in ((1, 1, 4, 6), (65, 1, 8, 8), (3, 1, 26, 14)):
        pixels = torch.rand(shape) * 2 - 1
        expected = answer(source.model, pixels)
        given["encoder"].append((pixels, expected.encoded if expected.codes is None else expected.codes))
        given["decoder"].append((expected.latents if expected.codes is None else expected.codes, expected.pixels))
    torch.save(
        {side: [[t.clone() for t in pair] for pair in pairs] for side, pairs in given.items()}, tmp_path / "given.pt"
    )
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_DIFFUSERS, tmp_path, programs], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    differences = [float(line.split()[1]) for line in result.stdout.splitlines()]
    assert len(differences) == 6
    assert max(differences) < 1e-5


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_said_before_the_model_is_loaded(
    name: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    status, _, errors = run("export", "onnx", "--model", "photos-kl", "-o", tmp_path / "onnx")
    assert (status, left(tmp_path)) == (2, [])
    assert errors == [f'{name} is not installed: pip install "latent-ae[onnx]"']


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "file", "what"),
    [
        ("onnx", "vae_encoder/model.onnx", "is an ONNX model"),
        ("onnx", "vae_encoder", "is an export for ONNX"),
        ("onnx", "", "is an export for ONNX"),
        ("pt2", "encoder.pt2", "is a program of torch.export"),
        ("pt2", "", "is an export of torch.export"),
    ],
)
def test_given_as_a_model_it_says_what_it_is(target: str, file: str, what: str, *, exports: Exports) -> None:
    path = exports("kl", target).out / file
    with pytest.raises(ModelError, match=f"{what}.*: give the model that it was made from"):
        load_autoencoder(str(path))
