"""The app's page. It computes nothing and shares nothing between visitors: the service does the work."""

import gradio as gr

from latent_ae.app import theme
from latent_ae.app.address import Address
from latent_ae.app.api.endpoints import add_endpoints
from latent_ae.app.tabs import compare, decode, inspect, interpolate, layout, markup, reconstruct, sample
from latent_ae.app.tabs.example_results import ExampleResults
from latent_ae.app.tabs.job import QUICK, info_of
from latent_ae.service.catalog import ModelInfo
from latent_ae.service.service import Service

TITLE = "latent-ae"
_PURPOSE = "See what an image autoencoder keeps of a picture and what it loses, and download the latents."

_CHANNELS = "Numbers at each position of the latents."
_CODES = "Each position of the latents is one of these codes."
_PARAMETERS = "Weights of encoder and decoder."
_PRECISION = "Arithmetic of the model: fp32 is the most exact, bf16 and fp16 are faster."


def create_demo(service: Service, *, examples: ExampleResults | None = None) -> gr.Blocks:
    """The page and the endpoints over `service`; visitors may click the examples, and see the first reconstructed."""
    examples = examples or ExampleResults(service, ())
    infos = {info.id: info for info in service.models()}
    names = list(infos)
    demo = gr.Blocks(title=TITLE, analytics_enabled=False)
    with demo:
        add_endpoints(service)  # first: a handler of the page with the same name would take it
        with gr.Row(elem_classes="top"):
            gr.HTML(markup.header(TITLE, _PURPOSE))
            switch = gr.Button("Dark or light", size="sm", scale=0, min_width=110, elem_classes="theme")
        with gr.Row(elem_classes="model"):
            model = gr.Dropdown(
                names, value=names[0], label="Model", info="Used by all tabs.", filterable=False, scale=1, min_width=240
            )
            facts = gr.HTML(model_facts(infos[names[0]]), scale=3, min_width=280)
        files, opened, address = layout.example_files(examples.paths), gr.State(0), Address()
        carried = gr.State(None)
        address.keep(model=model)
        with gr.Tabs(overflow_behavior="wrap") as tabs:
            with address.tab("Reconstruct"):
                reconstruct.add_tab(
                    service,
                    model=model,
                    address=address,
                    examples=examples,
                    files=files,
                    opened=opened,
                    carried=carried,
                )
            if len(names) > 1:
                with address.tab("Compare"):
                    compare.add_tab(service, model=model, address=address, examples=files)
            with address.tab("Decode"):
                decode.add_tab(service, tabs=tabs, carried=carried)
            with address.tab("Sample"):
                sample.add_tab(service, model=model, address=address)
            with address.tab("Interpolate"):
                interpolate.add_tab(service, model=model, address=address, examples=files)
            with address.tab("Inspect"):
                inspect.add_tab(service, model=model, examples=files)
        model.change(lambda name: model_facts(info_of(infos, name)), model, facts, **QUICK)
        switch.click(None, js=theme.OTHER_THEME, api_visibility="private")
        demo.load(None, js=theme.ON_LOAD, api_visibility="private")
        address.restore(demo, tabs, opened)
    return demo


def model_facts(info: ModelInfo) -> str:
    """A model's properties in one line."""
    codes = info.codebook_size
    latents = f"{info.latent_channels} channels" if codes is None else f"codebook of {codes:,}"
    encoder, decoder, parameters = info.encoder_precision, info.decoder_precision, info.parameters
    return markup.facts(
        [
            ("Kind", info.kind, "Class of diffusers."),
            ("Images", info.pixel_format.describe() + (" (files of numbers)" if info.pixel_format.numbers else ""), ""),
            *([("Shown", shown, "")] if (shown := info.pixel_format.describe_preview()) else []),
            ("Factor", f"{info.factor}x smaller", "Sides of the latents compared with those of the image."),
            ("Latents", latents, _CHANNELS if codes is None else _CODES),
            ("Parameters", f"{parameters / 10**6:.1f} M" if parameters >= 10**6 else f"{parameters:,}", _PARAMETERS),
            ("Precision", encoder if encoder == decoder else f"{encoder}, decoder {decoder}", _PRECISION),
            ("Encoder", info.encoder[:16], "Its identity. Only models with this encoder decode its latents."),
        ]
    )
