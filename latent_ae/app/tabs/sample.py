"""Sample: images that nobody uploaded, decoded from draws of the prior."""

import secrets
from typing import Any

import gradio as gr

from latent_ae.app.tabs import layout, markup
from latent_ae.app.tabs.files import gallery
from latent_ae.app.tabs.job import QUICK, Run, Updates, connect, guarded, info_of
from latent_ae.service import Service
from latent_ae.service.priors import Prior
from latent_ae.service.results import ModelInfo

_SEEDS = 2**31 - 1
_PRIORS = [("N(0, 1)", "normal"), ("Learned", "learned")]


def add_tab(service: Service, *, model: gr.Dropdown) -> None:
    """Draw the tab; `model` is the page's chooser."""
    limits, infos = service.limits, {info.id: info for info in service.models()}
    with gr.Row():
        with layout.controls():
            prior = gr.Radio(
                _PRIORS,
                label="Prior",
                info="What the latents are drawn from: what training pulled them to, or what was learned of them.",
                **_of_model(service.models()[0]),
            )
            count = gr.Slider(
                1,
                limits.samples,
                limits.default_count,
                step=1,
                label="Images",
                info="How many latents are drawn and decoded.",
            )
            temperature = gr.Slider(
                0.0, 2.0, 1.0, step=0.05, label="Temperature",
                info="Standard deviation of the draws: 0 is one average image, 1 the prior. Codes are not affected.",
            )  # fmt: skip
            seed = gr.Number(
                0,
                precision=0,
                minimum=0,
                maximum=_SEEDS,
                label="Seed",
                info="The same seed draws the same images again.",
            )
            another = gr.Button("New seed", size="sm")
            start, cancel, run = layout.buttons("Draw")
        with layout.answers():
            status = layout.status(
                "Nothing drawn yet",
                "An autoencoder is not a generator: these images show how far its latents are filled.",
            )
            with gr.Column(visible=False) as results:
                images = layout.pictures("Draws from the prior", columns=6)

    @guarded(status, results)
    def sample(  # noqa: PLR0917 - Gradio hands them over by place
        run: Run,
        name: str,
        prior: Prior,
        count: int,
        seed: float | None,
        temperature: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio is asked for one
    ) -> Updates:
        tick = run.start(progress, "Drawing and decoding")
        number = int(seed or 0)
        drawn = service.sample(
            model=name, count=int(count), seed=number, temperature=temperature, prior=prior, tick=tick
        )
        numbered = [(image, str(place)) for place, image in enumerate(drawn.images, start=1)]
        return {
            images: gallery(numbered, name=f"draw-{number}", columns=6),
            status: markup.note(drawn.note or f"{len(drawn.images)} draws in {drawn.seconds:.2f} s."),
            results: gr.update(visible=True),
        }

    connect(
        start,
        cancel,
        sample,
        run=run,
        inputs=[model, prior, count, seed, temperature],
        outputs=[images, results],
        status=status,
    )
    model.change(lambda name: gr.update(**_of_model(info_of(infos, name))), model, prior, **QUICK)
    another.click(lambda: secrets.randbelow(_SEEDS), None, seed, **QUICK)


def _of_model(info: ModelInfo) -> dict[str, Any]:
    """The choice between priors is there for a model that has two, and begins with the learned one."""
    learned = info.learned_prior is not None
    return {"value": "learned" if learned else "normal", "visible": learned}
