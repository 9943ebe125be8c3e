"""What a visitor has chosen, in the query of the page's address: a reload keeps it, and a link shows it to others.

The browser writes the address, by scripts alone; the server reads it once, when the page is opened.
"""

import json
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
from gradio.components import Component

from latent_ae.app.tabs.job import ASKS

_MAX_LENGTH = 2000
_READ = "() => { window.addressIsRead = true; return [location.search] }"
_REMEMBER = """value => {
  if (!window.addressIsRead) return  // the first tab is opened before
  const url = new URL(location)
  if (value === null || String(value) === %(first)s) url.searchParams.delete(%(key)s)
  else url.searchParams.set(%(key)s, value)
  history.replaceState(history.state, '', url)
}"""
_TAB = "tab"
_AND = ","
"""between the values of a list, as JavaScript joins them"""


class Address:
    """The components whose values are in the address, by their names there. Values as at first are left out."""

    def __init__(self) -> None:
        self._kept: dict[str, Component] = {}
        self._tabs: list[str] = []

    def keep(self, **components: Component) -> None:
        """Write each component's value whenever it changes."""
        self._kept |= components
        for key, component in components.items():
            self._on(component.change, key, component.value, [component])  # type: ignore[attr-defined]  # Gradio adds it

    def tab(self, name: str) -> gr.Tab:
        """A new tab, whose name is written when it is opened."""
        tab = gr.Tab(name, id=name.lower())
        self._tabs.append(name.lower())
        self._on(tab.select, _TAB, self._tabs[0], None, value=name.lower())
        return tab

    def restore(self, demo: gr.Blocks, tabs: gr.Tabs, opened: gr.State) -> None:
        """Let the page read its address when it is opened, and then give `opened` a value."""

        def read(query: str) -> dict[Any, Any]:
            given = parse_qs(str(query)[:_MAX_LENGTH].removeprefix("?"))
            updates: dict[Any, Any] = {opened: 1}
            for key, component in self._kept.items():
                if key in given and (value := accepted(component, given[key][-1])) is not None:
                    updates[component] = value
            if (tab := given.get(_TAB, [""])[-1]) in self._tabs:
                updates[tabs] = gr.update(selected=tab)
            return updates

        query = gr.Textbox(visible=False)
        demo.load(read, query, [opened, tabs, *self._kept.values()], js=_READ, **ASKS)

    @staticmethod
    def _on(event: Any, key: str, first: Any, inputs: list[Component] | None, value: str | None = None) -> None:
        script = _REMEMBER % {"key": json.dumps(key), "first": json.dumps("" if first is None else _written(first))}
        if value is not None:
            script = f"() => ({script})({json.dumps(value)})"
        event(None, inputs, js=script, api_visibility="private")


def accepted(component: Component, text: str) -> Any:
    """The value that an address gives a component; None if it is not one that a visitor could choose."""
    choices = {_written(value): value for _, value in getattr(component, "choices", None) or ()}
    if isinstance(component, gr.CheckboxGroup):
        return [choices[each] for each in dict.fromkeys(text.split(_AND)) if each in choices] or None
    if choices:
        return choices.get(text)
    try:
        number = float(text)
    except ValueError:
        return None
    low, high = component.minimum, component.maximum  # type: ignore[attr-defined]  # of sliders and numbers
    if not low <= number <= high:  # NaN is in no range
        return None
    return int(number) if number.is_integer() else number


def _written(value: Any) -> str:
    """A value as a browser writes it."""
    if isinstance(value, list):
        return _AND.join(map(_written, value))
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
