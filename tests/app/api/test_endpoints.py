"""The public interface as programs see it: through gradio_client, and as openapi.json describes it."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from latent_ae.inference import Codec
from latent_ae.io.image import from_tensor
from latent_ae.io.latent_file.latents import from_bytes, read_latents, to_bytes
from latent_ae.service.service import Service
from tests.app.pictures import pixels, png, read, written

FILE, TEXT, WHOLE, NUMBER, SWITCH = "file", "string", "integer", "number", "boolean"
ENDPOINTS = {
    "encode": {"image": FILE, "model": TEXT, "seed": WHOLE, "dtype": "enum", "logvar": SWITCH},
    "decode": {"latents": FILE, "model": TEXT, "foreign": SWITCH},
    "reconstruct": {"image": FILE, "model": TEXT, "baselines": SWITCH},
    "compare": {"image": FILE, "models": "array"},
    "sample": {"model": TEXT, "count": WHOLE, "seed": WHOLE, "temperature": NUMBER, "size": WHOLE, "prior": "enum"}
    | {"label": WHOLE, "top_k": WHOLE, "top_p": NUMBER},
    "interpolate": {"a": FILE, "b": FILE, "model": TEXT, "steps": WHOLE, "spherical": SWITCH},
    "models": {},
}


@pytest.fixture(scope="module")
def client(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(server, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))
    yield client
    client.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return written(tmp_path / "image.png", png(pixels(19, 30)))


def kind(schema: dict) -> str:
    if schema.get("format") == "filepath":
        return FILE
    if "enum" in schema:
        return "enum"
    return schema["type"] if "type" in schema else next(kind(one) for one in schema["oneOf"] if one != {"type": "null"})


def test_openapi_describes_the_endpoints_and_nothing_else(server: str) -> None:
    schema = httpx.get(f"{server}gradio_api/openapi.json").json()
    prefix = "/gradio_api/call/v2/"
    posts = {path.removeprefix(prefix): entry["post"] for path, entry in schema["paths"].items() if prefix in path}
    found = {
        name: {
            parameter: kind(what)
            for parameter, what in post["requestBody"]["content"]["application/json"]["schema"]["properties"].items()
        }
        for name, post in posts.items()
    }
    assert found == ENDPOINTS
    others = {re.sub(r"/gradio_api/call/\w+/\{event_id\}", "", path) for path in schema["paths"] if prefix not in path}
    assert others == {"", "/gradio_api/upload"}
    assert all(post["summary"] for post in posts.values())


def test_every_parameter_is_described_to_programs_and_on_the_page(server: str) -> None:
    endpoints = httpx.get(f"{server}gradio_api/info").json()["named_endpoints"]
    assert all(endpoint["description"] for endpoint in endpoints.values())
    told = {
        (name.strip("/"), each["parameter_name"]): each["python_type"]["description"]
        for name, endpoint in endpoints.items()
        for each in endpoint["parameters"]
    }
    assert told.keys() == {(name, parameter) for name, parameters in ENDPOINTS.items() for parameter in parameters}
    assert all(told.values())
    assert told["encode", "seed"] == "Seed of a sample of the posterior; default: its mode."
    schema = httpx.get(f"{server}gradio_api/openapi.json").json()["paths"]["/gradio_api/call/v2/encode"]["post"]
    seed = schema["requestBody"]["content"]["application/json"]["schema"]["properties"]["seed"]
    assert seed["description"] == told["encode", "seed"]


def test_the_python_client_finds_the_endpoints_and_what_may_be_left_out(client: Client) -> None:
    api = client.view_api(return_format="dict", print_info=False)
    assert api["unnamed_endpoints"] == {}
    endpoints = {name.strip("/"): endpoint for name, endpoint in api["named_endpoints"].items()}
    assert endpoints.keys() == ENDPOINTS.keys()
    required = {
        name: [each["parameter_name"] for each in endpoint["parameters"] if not each["parameter_has_default"]]
        for name, endpoint in endpoints.items()
    }
    assert required == {
        "encode": ["image"],
        "decode": ["latents"],
        "reconstruct": ["image"],
        "compare": ["image"],
        "sample": [],
        "interpolate": ["a", "b"],
        "models": [],
    }


@pytest.mark.parametrize("model", ["tiny-kl", "tiny-vq"])
def test_latents_go_there_and_back_as_the_codec_makes_them(
    client: Client, codecs: dict[str, Codec], image: Path, model: str
) -> None:
    file, numbers = client.predict(image=handle_file(image), model=model, api_name="/encode")
    latents = read_latents(Path(file))
    (expected,) = codecs[model].encode([pixels(19, 30)])
    assert torch.equal(latents.tensor, expected.tensor)
    assert (numbers["height"], numbers["width"], numbers["encoder"]) == (19, 30, codecs[model].identity)
    exact = {"precision": "exact", "tile": None, "tiles": 1}
    assert numbers["compute"] == exact
    (decoded,), numbers = client.predict(latents=handle_file(file), api_name="/decode")
    assert (numbers["model"], numbers["decoding"], numbers["seam_db"]) == (model, exact, [None])
    assert np.array_equal(read(decoded), codecs[model].decode([expected])[0])


def test_the_form_of_the_latents_can_be_chosen(client: Client, codecs: dict[str, Codec], image: Path) -> None:
    file, _ = client.predict(image=handle_file(image), seed=7, dtype="float16", logvar=True, api_name="/encode")
    latents = read_latents(Path(file))
    (expected,) = codecs["tiny-kl"].encode([pixels(19, 30)], seed=7, logvar=True)
    assert (latents.kind, latents.tensor.dtype) == ("sample", torch.float16)
    assert torch.equal(latents.tensor, expected.tensor.half())
    assert torch.equal(latents.logvar, expected.logvar.half())


def test_a_reconstruction_comes_without_loss_and_with_its_figures(
    client: Client, codecs: dict[str, Codec], image: Path
) -> None:
    picture, file, numbers = client.predict(image=handle_file(image), baselines=True, api_name="/reconstruct")
    assert np.array_equal(read(picture), codecs["tiny-kl"].reconstruct([pixels(19, 30)])[0])
    assert read_latents(Path(file)).encoder == codecs["tiny-kl"].identity
    error = np.square(read(picture).astype(float) - pixels(19, 30)).mean()
    psnr = next(value for name, value in numbers["metrics"].items() if "psnr" in name.lower())
    assert psnr == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)
    assert {each["name"] for each in numbers["baselines"]} == {"JPEG", "WebP"}
    assert all(size["bytes"] > 0 and size["bits_per_pixel"] > 0 for size in numbers["sizes"])


def test_models_are_compared_with_a_file_and_a_row_for_each(
    client: Client, codecs: dict[str, Codec], image: Path
) -> None:
    files, rows = client.predict(image=handle_file(image), api_name="/compare")
    assert [(row["model"], row["file"], row["compared_in"]) for row in rows] == [
        ("tiny-kl", 0, "colour"),
        ("tiny-vq", 1, "colour"),
    ]
    for file, row in zip(files, rows, strict=True):
        assert np.array_equal(read(file), codecs[row["model"]].reconstruct([pixels(19, 30)])[0])
        error = np.square(read(file).astype(float) - pixels(19, 30)).mean()
        assert row["metrics"]["PSNR"] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)
    assert [(row["stored_shape"], row["bits_per_number"]) for row in rows] == [([4, 5, 8], 16), ([5, 8], 5)]
    (file,), (row,) = client.predict(image=handle_file(image), models=["tiny-vq"], api_name="/compare")
    assert np.array_equal(read(file), read(files[1]))


def test_draws_follow_from_the_seed(client: Client, service: Service) -> None:
    first, numbers = client.predict(count=2, seed=3, size=32, api_name="/sample")
    again, _ = client.predict(count=2, seed=3, size=32, api_name="/sample")
    other, _ = client.predict(count=2, seed=4, size=32, api_name="/sample")
    assert [read(file).shape for file in first] == [(32, 32, 3)] * 2
    assert all(np.array_equal(read(a), read(b)) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(read(first[0]), read(other[0]))
    assert numbers["model"] == service.models()[0].id


def test_the_way_between_two_images_starts_and_ends_with_their_reconstructions(
    client: Client, codecs: dict[str, Codec], tmp_path: Path
) -> None:
    images = [pixels(16, 16, seed) for seed in (1, 2)]
    a, b = (handle_file(written(tmp_path / f"{i}.png", png(image))) for i, image in enumerate(images))
    files, _ = client.predict(a=a, b=b, steps=3, api_name="/interpolate")
    codec = codecs["tiny-kl"]
    first, last = (codec.vectors(each)[0] for each in codec.encode(images))
    expected = from_tensor(codec.decode_tensor(torch.stack([first, (first + last) / 2, last])))
    # The middle may be rounded the other way: the way to it is not the same sum.
    off = [np.abs(read(file).astype(int) - image).max() for file, image in zip(files, expected, strict=True)]
    assert (off[0], off[2]) == (0, 0)
    assert off[1] <= 1


def test_models_are_listed_with_what_is_known_of_them(client: Client, codecs: dict[str, Codec]) -> None:
    models = client.predict(api_name="/models")
    assert [(model["id"], model["kind"]) for model in models] == [("tiny-kl", "AutoencoderKL"), ("tiny-vq", "VQModel")]
    assert [model["encoder"] for model in models] == [codec.identity for codec in codecs.values()]
    assert models[0]["stats"]["images"] == 2
    assert "card_pictures" not in models[0]


PNG = png(pixels(8, 8))
BAD = {
    "an unknown model": ("encode", PNG, {"model": "../tiny-kl"}, "unknown_model"),
    "no image": ("encode", b"no image at all", {}, "unsupported_format"),
    "an image cut short": ("reconstruct", png(pixels(40, 40))[:-900], {}, "broken_image"),
    "an empty file": ("encode", b"", {}, "broken_image"),
    "too many pixels": ("encode", png(np.zeros((600, 600, 3), np.uint8)), {}, "too_large"),
    "no latents": ("decode", PNG, {}, "bad_latents"),
    "a seed that is text": ("encode", PNG, {"seed": "seven"}, "bad_request"),
    "a seed that is a switch": ("encode", PNG, {"seed": True}, "bad_request"),
    "a model that is a list": ("reconstruct", PNG, {"model": ["tiny-kl"]}, "bad_request"),
    "no models": ("compare", PNG, {"models": []}, "bad_request"),
    "models that are text": ("compare", PNG, {"models": "tiny-kl"}, "bad_request"),
    "an unknown dtype": ("encode", PNG, {"dtype": "float8"}, "bad_request"),
    "too many steps": ("interpolate", PNG, {"steps": 10**9}, "bad_request"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_reaches_the_client_as_a_code_and_a_sentence(client: Client, tmp_path: Path, case: str) -> None:
    endpoint, data, parameters, code = BAD[case]
    file = handle_file(written(tmp_path / "upload.bin", data))
    inputs = [name for name, kind in ENDPOINTS[endpoint].items() if kind == FILE]
    with pytest.raises(AppError) as raised:
        client.predict(**dict.fromkeys(inputs, file), **parameters, api_name=f"/{endpoint}")
    assert re.match(rf"{code}: .{{10,}}", raised.value.message)
    assert "Traceback" not in raised.value.message
    assert "/" not in raised.value.message.replace("../tiny-kl", "")


def test_latents_of_another_encoder_are_refused_by_name(
    client: Client, codecs: dict[str, Codec], tmp_path: Path
) -> None:
    (latents,) = codecs["tiny-kl"].encode([pixels(8, 8)])
    stranger = to_bytes(from_bytes(to_bytes(latents)).__class__(**{**vars(latents), "encoder": "0" * 64}))
    with pytest.raises(AppError, match=r"^wrong_model: "):
        client.predict(latents=handle_file(written(tmp_path / "a.safetensors", stranger)), api_name="/decode")
    own = handle_file(written(tmp_path / "b.safetensors", to_bytes(latents)))
    with pytest.raises(AppError, match=r"^wrong_model: "):
        client.predict(latents=own, model="tiny-vq", api_name="/decode")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_lines_with_curl_in_the_docs_encode_a_photo(server: str, tmp_path: Path, codecs: dict[str, Codec]) -> None:
    docs = Path(__file__).parents[3] / "docs" / "serving.md"
    (lines,) = re.findall(r"```bash\n(server=.*?)```", docs.read_text(encoding="utf-8"), re.DOTALL)
    written(tmp_path / "photo.jpg", png(pixels(19, 30)))
    script = lines.replace("http://127.0.0.1:7860", server.rstrip("/"))
    run = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    event, data = run.stdout.strip().splitlines()
    assert event == "event: complete"
    _, numbers = json.loads(data.removeprefix("data: "))
    assert (numbers["encoder"], numbers["shape"]) == (codecs["tiny-kl"].identity, [1, 4, 5, 8])
