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
_IN_TURN = "each in turn"


def add_tab(service: Service, *, model: gr.Dropdown, address: Address) -> None:
    """Draw the tab; `model` is the page's chooser."""
    limits, infos, job = service.limits, {info.id: info for info in service.models()}, Job(service)
    first = service.models()[0]
    default = _default_prior(first)
    with gr.Row():
        with layout.controls():
            prior = gr.Radio(
                _PRIORS,
                label="Prior",
                info="The distribution of the latents: the one that training pulls them to, or one that was learned.",
                **_of_model(first),
            )
            count = gr.Slider(
                1, limits.samples, limits.default_count, step=1, label="Images", info="Number of latents to draw."
            )
            label = gr.Dropdown(label="Class", info="Of all draws.", interactive=True, **_class(first, default))
            together = "Each code is one of the most probable ones that together have this probability."
            top_p = gr.Slider(
                0.05, 1.0, 1.0, step=0.05, label="Top-p", info=together, visible=_draws_codes(first, default)
            )
            deviation = (
                "How far draws vary: 0 is the most probable image, 1 the prior. No effect on codes drawn evenly."
            )
            temperature = gr.Slider(0.0, 2.0, 1.0, step=0.05, label="Temperature", info=deviation)
            seed = gr.Number(
                0, precision=0, minimum=0, maximum=_SEEDS, label="Seed", info="The same seed draws the same images."
            )
            another = gr.Button("New seed", size="sm")
            job.buttons("Draw")
        hint = "An autoencoder is not a generator: these images show how much of its latent space decodes to images."
        with job.answers("Nothing drawn yet", hint):
            images = layout.pictures("Draws from the prior", columns=6)

    def sample(
        tick: Tick,
        name: str,
        prior: Prior,
        count: int,
        seed: float | None,
        temperature: float,
        label: str,
        top_p: float,
    ) -> Updates:
        number, codes = int(seed or 0), _draws_codes(info_of(infos, name), prior)
        drawn = service.sample(
            model=name,
            count=int(count),
            seed=number,
            temperature=temperature,
            prior=prior,
            label=int(label) if codes and label not in (None, _IN_TURN) else None,
            top_p=top_p if codes else None,
            tick=tick,
        )
        return {
            images: gallery(numbered(drawn.previews), name=f"draw-{number}", columns=6),
            job.status: markup.note(drawn.note or f"{len(drawn.images)} draws in {drawn.seconds:.2f} s."),
        }

    def of_codes(name: str, prior: Prior) -> Updates:
        info = info_of(infos, name)
        return {label: gr.update(**_class(info, prior)), top_p: gr.update(visible=_draws_codes(info, prior))}

    address.keep(count=count, seed=seed, temperature=temperature)
    inputs = [model, prior, count, seed, temperature, label, top_p]
    job.connect(sample, "Drawing and decoding", inputs=inputs, outputs=[images], model=model)
    model.change(lambda name: gr.update(**_of_model(info_of(infos, name))), model, prior, **QUICK)
    for changed in (model, prior):
        changed.change(of_codes, [model, prior], [label, top_p], **QUICK)
    another.click(lambda: secrets.randbelow(_SEEDS), None, seed, **QUICK)


def _default_prior(info: ModelInfo) -> Prior:
    return "normal" if info.learned_prior is None else "learned"


def _of_model(info: ModelInfo) -> dict[str, Any]:
    """The chooser of priors is visible for a model that has two, with the learned one selected."""
    return {"value": _default_prior(info), "visible": info.learned_prior is not None}


def _draws_codes(info: ModelInfo, prior: Prior) -> bool:
    """Whether a learned prior draws codes, which may be of a class and of the more probable ones only."""
    return prior == "learned" and info.learned_prior is not None and info.codebook_size is not None


def _class(info: ModelInfo, prior: Prior) -> dict[str, Any]:
    """The chooser of the class is visible where the prior knows classes."""
    choices = [_IN_TURN, *map(str, info.prior_classes)]
    return {"choices": choices, "value": _IN_TURN, "visible": _draws_codes(info, prior) and len(choices) > 1}
