"""The loaders of other programs, and what each asks of a model: a table.

Each row says at which version or commit its source was read or its loader was run. The loaders of files were run on
random weights of Stable Diffusion's size, 64 pixels wide: where a row says yes, latents and images were diffusers' to
3e-5 (MLX stable_diffusion: 5e-4); where it says that a loader is silent, they were others by 0.1 and more.
"""

from dataclasses import dataclass

from latent_ae.export import facts as rules
from latent_ae.export.facts import FACTOR_4, STABLE_DIFFUSION, Rule
from latent_ae.export.network import Network


@dataclass(frozen=True)
class Scale:
    """A scale that is built into a program."""

    of: str
    channels: int
    """of the latents that it is for"""
    factor: float
    shift: float = 0.0

    def __str__(self) -> str:
        return f"{self.factor:g}{f', shift {self.shift:g}' if self.shift else ''} ({self.of})"


SD, XL = Scale("SD", 4, 0.18215), Scale("SDXL", 4, 0.13025)
SD3, FLUX = Scale("SD3", 16, 1.5305, 0.0609), Scale("FLUX.1", 16, 0.3611, 0.1159)


@dataclass(frozen=True)
class Loader:
    """One way in which a program loads an autoencoder."""

    use: str
    """how, where it works"""
    seen: str
    """version or commit, and whether it was run or read there"""
    rules: tuple[Rule, ...] = ()
    """what it needs, and fails without"""
    unchecked: tuple[Rule, ...] = ()
    """what it needs too, and does not look at: it loads, and is wrong"""
    network: Network | None = None
    """what it builds before it reads a file; None: what the config says"""
    warns: tuple[Rule, ...] = ()
    """what does not keep it from working, and is to be known"""
    scales: tuple[Scale, ...] | None = None
    """by which it scales latents whatever the config says; None: by this config or the diffusion model's"""
    ignores_shift: bool = False


_FOLDER = "the folder (latent-ae export diffusers)"
_FILE = "one file (latent-ae export ldm)"
_GRAPHS = "vae_encoder/ and vae_decoder/ (latent-ae export onnx)"
_DIFFUSERS = "run, diffusers 0.42.1"
_KOHYA = "run, sd-scripts 48d368f, 2026-02-16"
_FORGE = "run, stable-diffusion-webui-forge dfdcbab, 2025-06-26"
_A1111 = "read, stable-diffusion-webui, stored copies 0180402 (sd_vae.py) and 255da37 (sd3)"
_INVOKE = "InvokeAI 8e71a8a, 2026-08-19"
_SDNEXT = "read, and from_single_file run with its configs, sdnext 058a7f0, 2026-07-23"
_MLX = "run, mlx-examples 7ddca42, 2025-11-20"

_LDM_RULES = (rules.middle_attention, rules.multiples, rules.no_spatial_norm, rules.same_attention)
_LDM_UNCHECKED = (rules.groups_32, rules.silu)

LOADERS: dict[str, Loader] = {
    "diffusers from_pretrained": Loader(_FOLDER, _DIFFUSERS),
    "AutoencoderKL.from_single_file": Loader(
        f"{_FILE} with config=DIR: without one it asks the hub for Stable Diffusion's",
        _DIFFUSERS,
        rules=(rules.no_vq_single_file, rules.no_level_attention),
    ),
    "diffusers SD 1.x and 2.x pipelines": Loader(
        _FOLDER, _DIFFUSERS, rules=(rules.kl, rules.symmetric, rules.no_statistics), ignores_shift=True
    ),
    "diffusers SDXL pipelines": Loader(
        _FOLDER, _DIFFUSERS, rules=(rules.kl, rules.symmetric, rules.statistics_of_four), ignores_shift=True
    ),
    "diffusers SD3 and FLUX pipelines": Loader(
        _FOLDER, _DIFFUSERS, rules=(rules.kl, rules.symmetric, rules.shift_is_number, rules.no_statistics)
    ),
    "diffusers LDM super-resolution": Loader(
        f"{_FOLDER}, for images of the latents' size", _DIFFUSERS, rules=(rules.vq, rules.beside_rgb)
    ),
    "latent-diffusion": Loader(
        f"{_FILE}: instantiate_from_config(ldm.yaml), load_state_dict; LatentDiffusion's config has the scale",
        "run, latent-diffusion a506df5, 2022-07-27",
        rules=(*_LDM_RULES, rules.both_quant_convs),
        unchecked=_LDM_UNCHECKED,
    ),
    "generative-models": Loader(
        f"{_FILE}: AutoencoderKL or, without the 1x1 convolutions, AutoencodingEngine, with ldm.yaml's ddconfig",
        "run, generative-models 0ad7de9, 2025-05-20",
        rules=(rules.kl, *_LDM_RULES, rules.paired_quant_convs),
        unchecked=_LDM_UNCHECKED,
    ),
    "ComfyUI VAELoader": Loader(
        _FILE,
        "run, ComfyUI 0.3.64 (a125cd8, 2025-10-11)",
        rules=(rules.kl, rules.taken(64, "it takes them for HunyuanImage's, since 0.3.58 (2025-09)")),
        network=Network(widths=(STABLE_DIFFUSION, FACTOR_4), names="fills"),
        warns=(rules.taken(32, "versions of 2025-10 and 2025-11 (0.3.63 until FLUX.2) take them for HunyuanVideo's"),),
        scales=(SD, XL, SD3, FLUX),
    ),
    "A1111, SD and SDXL": Loader(
        _FILE, _A1111, rules=(rules.kl,), network=Network(latent_channels=(4,), quant_convs="both"), scales=(SD, XL)
    ),
    "A1111, SD3": Loader(
        _FILE, _A1111, rules=(rules.kl,), network=Network(latent_channels=(16,), quant_convs="none"), scales=(SD3,)
    ),
    "Forge, SD and SDXL": Loader(
        _FILE,
        _FORGE,
        rules=(rules.kl,),
        network=Network(latent_channels=(4,), quant_convs="both", names="fills"),
        scales=(SD, XL),
    ),
    "Forge, SD3 and FLUX.1": Loader(
        _FILE,
        _FORGE,
        rules=(rules.kl,),
        network=Network(latent_channels=(16,), quant_convs="none", names="fills"),
        scales=(SD3, FLUX),
    ),
    "kohya load_vae, a folder": Loader(
        f"{_FOLDER}, for SD and SDXL",
        _KOHYA,
        rules=(rules.kl, rules.rgb, rules.factor_8, rules.latent_channels(4)),
        scales=(SD, XL),
    ),
    "kohya load_vae, a file": Loader(
        f"{_FILE}, for SD and SDXL",
        _KOHYA,
        rules=(rules.kl,),
        network=Network(latent_channels=(4,), quant_convs="both"),
        scales=(SD, XL),
    ),
    "kohya sd3_utils.load_vae": Loader(
        _FILE, _KOHYA, rules=(rules.kl,), network=Network(latent_channels=(16,), quant_convs="none"), scales=(SD3,)
    ),
    "kohya flux_utils.load_ae": Loader(
        _FILE,
        _KOHYA,
        rules=(rules.kl,),
        network=Network(latent_channels=(16,), quant_convs="none", names="drops"),
        scales=(FLUX,),
    ),
    "InvokeAI, a folder": Loader(
        f"{_FOLDER}, for SD and SDXL",
        f"read, {_INVOKE}",
        rules=(rules.kl, rules.rgb, rules.factor_8, rules.latent_channels(4)),
        ignores_shift=True,
    ),
    "InvokeAI, a file for SD and SDXL": Loader(
        f"{_FILE}, with a name that says sd2 or xl for those; it asks the hub for SD 1's config, for SDXL too",
        f"read, and from_single_file run with SD's config, {_INVOKE}",
        rules=(rules.kl,),
        network=Network(latent_channels=(4,), quant_convs="both", names="drops"),
        scales=(SD,),
    ),
    "InvokeAI, a file for FLUX.1": Loader(
        _FILE,
        f"run, {_INVOKE}",
        rules=(rules.kl,),
        network=Network(latent_channels=(16,), quant_convs="none"),
        scales=(FLUX,),
    ),
    "SD.Next, a folder": Loader(f"{_FOLDER} of the loaded model's architecture", _SDNEXT, rules=(rules.kl, rules.rgb)),
    "SD.Next, a file for SD and SDXL": Loader(
        _FILE,
        _SDNEXT,
        rules=(rules.kl,),
        network=Network(latent_channels=(4,), quant_convs="both", names="fills"),
        scales=(SD, XL),
    ),
    "SD.Next, a file for SD3 and FLUX.1": Loader(
        _FILE,
        _SDNEXT,
        rules=(rules.kl,),
        network=Network(latent_channels=(16,), quant_convs="none", names="fills"),
        scales=(SD3, FLUX),
    ),
    "MLX stable_diffusion": Loader(
        f"{_FOLDER}, in the place of the hub's that it knows",
        _MLX,
        rules=(rules.kl, rules.symmetric, rules.none_in_levels),
        unchecked=(rules.both_quant_convs, rules.middle_attention, rules.silu),
        ignores_shift=True,
    ),
    "MLX flux": Loader(
        f"{_FILE}, its path in the environment variable AE",
        _MLX,
        rules=(rules.kl,),
        network=Network(latent_channels=(16,), quant_convs="none"),
        scales=(FLUX,),
    ),
    "optimum, ONNX Runtime": Loader(
        _GRAPHS, "read, optimum-onnx 0.1.0", rules=(rules.kl, rules.symmetric, rules.scaling_is_number)
    ),
    "optimum-intel, OpenVINO": Loader(
        f"{_FOLDER}, converted by it",
        "read, optimum-intel e1de5be, 2026-08-20",
        rules=(rules.kl, rules.symmetric, rules.scaling_is_number),
    ),
    "OpenVINO": Loader("the ONNX graphs (latent-ae export onnx): read_model, compile_model", "run, OpenVINO 2026.4.1"),
    "ONNX Runtime": Loader("the ONNX graphs (latent-ae export onnx)", "run, ONNX Runtime 1.32.0"),
    "onnxruntime-web": Loader("the ONNX graphs (latent-ae export onnx), in WebAssembly", "run, onnxruntime-web 1.30.0"),
    "torch.export": Loader("encoder.pt2 and decoder.pt2 (latent-ae export pt2)", "run, torch 2.13.0"),
}
"""by name; tests/export/test_compat.py has models that each takes and refuses"""
