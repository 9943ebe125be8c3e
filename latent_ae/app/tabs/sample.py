"""Sample: images decoded from latents that a prior drew."""

import secrets
from typing import Any

import gradio as gr

from latent_ae.app.address import Address
from latent_ae.app.files import gallery, numbered
from latent_ae.app.tabs import layout, markup
from latent_ae.app.tabs.job import QUICK, Job, Tick, Updates, info_of
from latent_ae.service.catalog import ModelInfo, Prior
from latent_ae.service.service import Service

_SEEDS = 2**31 - 1
_PRIORS = [("N(0, 1)", "normal"), ("Learned", "learned")]


def add_tab(service: Service, *, model: gr.Dropdown, address: Address) -> None:
    """Draw the tab; `model` is the page's chooser."""
    limits, infos, job = service.limits, {info.id: info for info in service.models()}, Job(service)
    with gr.Row():
        with layout.controls():
            prior = gr.Radio(
                _PRIORS,
                label="Prior",
                info="The distribution of the latents: the one that training pulls them to, or one that was learned.",
                **_of_model(service.models()[0]),
            )
            count = gr.Slider(
                1, limits.samples, limits.default_count, step=1, label="Images", info="Number of latents to draw."
            )
            deviation = "Standard deviation of the draws: 0 is one average image, 1 the prior. No effect on codes."
            temperature = gr.Slider(0.0, 2.0, 1.0, step=0.05, label="Temperature", info=deviation)
            seed = gr.Number(
                0, precision=0, minimum=0, maximum=_SEEDS, label="Seed", info="The same seed draws the same images."
            )
            another = gr.Button("New seed", size="sm")
            job.buttons("Draw")
        hint = "An autoencoder is not a generator: these images show how much of its latent space decodes to images."
        with job.answers("Nothing drawn yet", hint):
            images = layout.pictures("Draws from the prior", columns=6)

    def sample(tick: Tick, name: str, prior: Prior, count: int, seed: float | None, temperature: float) -> Updates:
        number = int(seed or 0)
        drawn = service.sample(
            model=name, count=int(count), seed=number, temperature=temperature, prior=prior, tick=tick
        )
        return {
            images: gallery(numbered(drawn.previews), name=f"draw-{number}", columns=6),
            job.status: markup.note(drawn.note or f"{len(drawn.images)} draws in {drawn.seconds:.2f} s."),
        }

    address.keep(count=count, seed=seed, temperature=temperature)
    inputs = [model, prior, count, seed, temperature]
    job.connect(sample, "Drawing and decoding", inputs=inputs, outputs=[images], model=model)
    model.change(lambda name: gr.update(**_of_model(info_of(infos, name))), model, prior, **QUICK)
    another.click(lambda: secrets.randbelow(_SEEDS), None, seed, **QUICK)


def _of_model(info: ModelInfo) -> dict[str, Any]:
    """The chooser of priors is visible for a model that has two, with the learned one selected."""
    learned = info.learned_prior is not None
    return {"value": "learned" if learned else "normal", "visible": learned}
