"""How the app looks: one accent colour, neutral surfaces, in light and in dark; see `theme.css` too."""

from pathlib import Path

from gradio.themes import Base, Color, LocalFont, Size

_ACCENT = Color(  # from 50 to 950
    *("#eef8f6", "#d5eee9", "#aaddd4", "#78c5ba", "#46a89c", "#248b80"),
    *("#14736a", "#115d56", "#114b46", "#113f3b", "#062523"),
    name="accent",
)
_NEUTRAL = Color(  # from 50 to 950
    *("#fafaf9", "#f4f4f2", "#e6e6e3", "#d3d3cf", "#a0a09b", "#71716c"),
    *("#54544f", "#3f3f3b", "#272725", "#1b1b1a", "#121211"),
    name="neutral",
)

THEME = Base(
    primary_hue=_ACCENT,
    secondary_hue=_ACCENT,
    neutral_hue=_NEUTRAL,
    font=[LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"],
    font_mono=[LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace"],
    radius_size=Size("2px", "3px", "4px", "6px", "8px", "10px", "12px", name="radius_app"),
).set(
    body_background_fill="*neutral_50",
    body_background_fill_dark="*neutral_950",
    body_text_color="*neutral_900",
    body_text_color_subdued="*neutral_500",
    background_fill_primary_dark="*neutral_900",
    background_fill_secondary="*neutral_100",
    border_color_primary_dark="*neutral_800",
    border_color_accent="*primary_500",
    color_accent="*primary_600",
    color_accent_soft_dark="*primary_950",
    link_text_color="*primary_700",
    link_text_color_dark="*primary_300",
    link_text_color_hover="*primary_800",
    link_text_color_hover_dark="*primary_200",
    link_text_color_visited="*primary_700",
    link_text_color_visited_dark="*primary_300",
    block_background_fill="white",
    block_background_fill_dark="*neutral_900",
    block_title_text_weight="500",
    block_title_text_color="*neutral_800",
    block_info_text_color="*neutral_500",
    block_info_text_color_dark="*neutral_400",
    block_label_background_fill="white",
    block_label_background_fill_dark="*neutral_900",
    block_label_text_color="*neutral_600",
    block_label_text_color_dark="*neutral_300",
    block_label_text_weight="500",
    input_background_fill="white",
    input_background_fill_dark="*neutral_950",
    input_border_width="1px",
    input_border_color="*neutral_300",
    input_border_color_dark="*neutral_700",
    input_border_color_focus="*primary_500",
    input_border_color_focus_dark="*primary_400",
    slider_color="*primary_600",
    slider_color_dark="*primary_400",
    checkbox_background_color_selected="*primary_600",
    checkbox_border_color_selected="*primary_600",
    checkbox_label_background_fill="transparent",
    checkbox_label_background_fill_dark="transparent",
    checkbox_label_background_fill_selected="*primary_50",
    checkbox_label_background_fill_selected_dark="*primary_950",
    checkbox_label_text_color_selected="*primary_800",
    checkbox_label_text_color_selected_dark="*primary_200",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_dark="*primary_500",
    button_primary_background_fill_hover_dark="*primary_400",
    button_primary_text_color_dark="*neutral_950",
    button_secondary_background_fill="white",
    button_secondary_background_fill_hover="*neutral_100",
    button_secondary_background_fill_dark="*neutral_900",
    button_secondary_background_fill_hover_dark="*neutral_800",
    button_secondary_border_color="*neutral_300",
    button_secondary_border_color_dark="*neutral_700",
    button_secondary_text_color="*neutral_800",
    button_secondary_text_color_dark="*neutral_100",
    button_border_width="1px",
    button_primary_border_color="transparent",
    button_large_text_size="*text_md",
    button_large_padding="10px 16px",
    button_small_text_weight="500",
    error_text_color="#a3271b",
    error_text_color_dark="#f3a49b",
    error_background_fill="#fdf1ef",
    error_background_fill_dark="#2c1512",
    error_border_color="#e9b7b0",
    error_border_color_dark="#6d2f27",
)

CSS = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")

OTHER_THEME = """() => {
  const dark = document.body.classList.toggle('dark')
  localStorage.setItem('latent-ae-theme', dark ? 'dark' : 'light')
}"""
"""script of the button that changes between light and dark"""

ON_LOAD = """() => {
  const theme = localStorage.getItem('latent-ae-theme')
  if (theme && !new URL(location).searchParams.has('__theme')) document.body.classList.toggle('dark', theme === 'dark')

  const see = image => {
    const side = Math.max(image.naturalWidth, image.naturalHeight)
    image.toggleAttribute('data-few', 0 < side && side <= 192)
    const example = image.closest('.gallery > .gallery-item')
    example?.setAttribute('aria-label', 'Example ' + ([...example.parentElement.children].indexOf(example) + 1))
  }
  document.addEventListener('load', event => { if (event.target.tagName === 'IMG') see(event.target) }, true)
  for (const image of document.images) see(image)
}"""
"""script of the page: restores the chosen theme, marks images of few pixels, names the examples"""
