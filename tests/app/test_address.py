"""What is chosen, in the page's address."""

import gradio as gr
import pytest

from latent_ae.app.address import accepted
from latent_ae.app.page import create_demo
from latent_ae.service.service import Service

pytestmark = pytest.mark.usefixtures("gradio_folder")
CHOICES = gr.Radio([("N(0, 1)", "normal"), ("Learned", "learned")])
SEVERAL = gr.CheckboxGroup(["a", "b", "c"], value=["a", "b", "c"])
SLIDER = gr.Slider(0.0, 2.0, 1.0, step=0.05)


@pytest.mark.parametrize(
    ("component", "text", "value"),
    [
        (CHOICES, "learned", "learned"),
        (CHOICES, "Learned", None),
        (CHOICES, "", None),
        (SEVERAL, "c,a", ["c", "a"]),
        (SEVERAL, "b,d,b", ["b"]),
        (SEVERAL, "d", None),
        (SEVERAL, "", None),
        (SLIDER, "0.35", 0.35),
        (SLIDER, "2", 2),
        *((SLIDER, text, None) for text in ("2.01", "-1", "nan", "inf", "many", "")),
    ],
)
def test_an_address_gives_only_what_a_visitor_can_choose(
    component: gr.components.Component, text: str, value: object
) -> None:
    got = accepted(component, text)
    assert got == value
    assert type(got) is type(value)


def test_the_page_is_opened_as_its_address_says(service: Service) -> None:
    page = create_demo(service)
    (read,) = [event.fn for event in page.fns.values() if event.name == "read"]
    found = {
        getattr(component, "label", None): value for component, value in read("?model=tiny-vq&seed=7&gain=99").items()
    }
    assert found == {None: 1, "Model": "tiny-vq", "Seed": 7}
    models = next(
        value for component, value in read("?models=tiny-vq").items() if getattr(component, "label", "") == "Models"
    )
    assert models == ["tiny-vq"]
    tabs = next(value for component, value in read("?tab=sample").items() if isinstance(component, gr.Tabs))
    assert tabs["selected"] == "sample"
    for harmless in ("", "?tab=admin&model=%00", "?" + "a=b&" * 5000, "?seed=1e999"):
        assert list(read(harmless).values()) == [1]
