"""`latent-ae export onnx` and `pt2`: graphs of any batch, height and width."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from latent_ae.export import ModelSource
from latent_ae.export.graphs import program_of, sides
from latent_ae.export.probes import answer
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
    status, _, errors = run("export", "onnx", "--model", tmp_path / "nothing", "-o", tmp_path / "onnx")
    assert (status, left(tmp_path)) == (2, [])
    assert errors == [f'{name} is not installed: pip install "latent-ae[onnx]"']
