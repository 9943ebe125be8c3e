"""Files of ComfyUI and of other encoders as latents of a model that is named, by ComfyUI's own rule of reading them."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from latent_ae.io.latent_file.foreign import LatentForm, bare_image_count, take_latents
from latent_ae.io.latent_file.latents import LatentFileError, Latents, Limits, to_bytes
from tests.io.latent_file.test_latents import kl, normal, vq

FORM = LatentForm("mine", "f" * 64, factor=4, channels=3, codebook_size=None)
CODES = LatentForm("codes", "e" * 64, factor=4, channels=2, codebook_size=512)
MARKER = {"latent_format_version_0": torch.empty(0)}
WORKFLOW = {"prompt": '{"3": {"class_type": "KSampler"}}', "workflow": "{}"}


def comfy_reads(data: bytes) -> Tensor:
    """What its LoadLatent makes of a file: float32, and without the marker times 1 / 0.18215."""
    tensors = safetensors.torch.load(data)
    return tensors["latent_tensor"].float() * (1.0 if "latent_format_version_0" in tensors else 1.0 / 0.18215)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("marker", [MARKER, {"latent_format_version_0": torch.ones(2)}, {}], ids=["raw", "odd", "old"])
@pytest.mark.parametrize("more", [{}, {"noise_mask": torch.ones(1, 8, 12), "batch_index": torch.arange(2)}])
def test_a_file_of_comfyui_holds_what_comfyui_reads(
    dtype: torch.dtype, marker: dict[str, Tensor], more: dict[str, Tensor]
) -> None:
    tensors = {"latent_tensor": normal(2, 3, 2, 5).to(dtype), **marker, **more}
    data = safetensors.torch.save(tensors, WORKFLOW)
    latents, note = take_latents(data, FORM)
    assert latents.tensor.equal(comfy_reads(data))
    assert (latents.encoder, latents.height, latents.width, latents.factor) == ("f" * 64, 8, 20, 4)
    assert note.startswith("taken as raw latents of mine" if marker else "taken as latents of mine times 0.18215")
    assert note.endswith("the file does not say which encoder made them")


def test_a_time_axis_of_one_step_is_dropped_and_a_video_refused(tmp_path: Path) -> None:
    still = normal(2, 3, 1, 2, 5)
    data = safetensors.torch.save({"latent_tensor": still, **MARKER})
    assert take_latents(data, FORM)[0].tensor.equal(still[:, :, 0])
    (tmp_path / "still.latent").write_bytes(data)
    assert bare_image_count(tmp_path / "still.latent") == 2
    video = safetensors.torch.save({"latent_tensor": normal(1, 3, 5, 2, 5), **MARKER})
    with pytest.raises(LatentFileError, match=r"\[1, 3, 5, 2, 5\] is of a video, 5 steps of time.*cut one out"):
        take_latents(video, FORM)


@pytest.mark.parametrize(("latents", "form"), [(kl("sample"), FORM), (vq(), CODES)])
def test_latents_of_another_encoder_are_taken_if_their_form_fits(latents: Latents, form: LatentForm) -> None:
    taken, note = take_latents(to_bytes(latents), form)
    assert taken.encoder == form.encoder
    assert taken.tensor.equal(latents.tensor)
    assert (taken.height, taken.width, taken.kind) == (latents.height, latents.width, latents.kind)
    assert note == (
        f"taken as latents of {form.model}, although the file says that the encoder 0123456789abcdef "
        "(runs/digits/model) made them"
    )


def test_nothing_is_assumed_of_the_models_own_latents() -> None:
    own = LatentForm("mine", kl().encoder, factor=4, channels=3, codebook_size=None)
    taken, note = take_latents(to_bytes(kl()), own)
    assert taken.tensor.equal(kl().tensor)
    assert note == ""


def bare(tensor: Tensor) -> bytes:
    return safetensors.torch.save({"latent_tensor": tensor, **MARKER})


@pytest.mark.parametrize(
    ("data", "form", "message"),
    [
        (
            bare(normal(1, 16, 2, 3)),
            FORM,
            "holds latents of 16 channels at a factor of 4, the model mine takes .* 3 ch",
        ),
        (bare(normal(1, 2, 2, 3)), CODES, "takes codes of a codebook of 512 at a factor of 4: name another model"),
        (to_bytes(vq()), FORM, "holds codes of a codebook of 512 at a factor of 4"),
        (
            to_bytes(kl()),
            LatentForm("m", "f" * 64, 8, 3, None),
            "3 channels at a factor of 4, the model m takes .* of 8",
        ),
        (to_bytes(vq()), LatentForm("m", "f" * 64, 4, 2, 64), "codebook of 512 .* codebook of 64"),
        (bare(normal(3, 2, 3)), FORM, r"the shape \[3, 2, 3\], expected \[N,c,h,w\] or \[N,c,1,h,w\]"),
        (bare(normal(0, 3, 2, 3)), FORM, r"the shape \[0, 3, 2, 3\]"),
        (bare(torch.ones(1, 3, 2, 3, dtype=torch.int64)), FORM, "latent_tensor is 'I64', expected one of F32"),
        (bare(torch.full((1, 3, 2, 3), torch.nan)), FORM, "not finite"),
        (bare(normal(1, 3, 2, 3))[:-8], FORM, "cut short: 64 bytes of tensors, its header promises 72"),
        (bare(normal(9, 3, 2, 3)), FORM, "a latent file of 9 images, more than the 4 that are read"),
        (bare(normal(1, 3, 20, 30)), FORM, "the latents take 7200 bytes, more than the 2048 that are read"),
        (safetensors.torch.save({"samples": normal(1, 3, 2, 3)}), FORM, "got a file with 'samples'"),
        (b"\x80\x04PK", FORM, "not a latent file"),
    ],
)
def test_what_does_not_fit_is_refused(data: bytes, form: LatentForm, message: str) -> None:
    with pytest.raises(LatentFileError, match=message):
        take_latents(data, form, limits=Limits(images=4, tensor_bytes=2048))
