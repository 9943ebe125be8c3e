"""How the app looks: one accent colour, neutral surfaces, in light and in dark. Given to Gradio's launch().

Gradio writes each rule a second time for its own container, cut at every comma: no comma may stand inside of `:is()`.
"""

from gradio.themes import Base, Color, LocalFont, Size

_ACCENT = Color(
    name="accent",
    c50="#eef8f6",
    c100="#d5eee9",
    c200="#aaddd4",
    c300="#78c5ba",
    c400="#46a89c",
    c500="#248b80",
    c600="#14736a",
    c700="#115d56",
    c800="#114b46",
    c900="#113f3b",
    c950="#062523",
)
_NEUTRAL = Color(
    name="neutral",
    c50="#fafaf9",
    c100="#f4f4f2",
    c200="#e6e6e3",
    c300="#d3d3cf",
    c400="#a0a09b",
    c500="#71716c",
    c600="#54544f",
    c700="#3f3f3b",
    c800="#272725",
    c900="#1b1b1a",
    c950="#121211",
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
    body_text_color_dark="*neutral_100",
    body_text_color_subdued="*neutral_500",
    body_text_color_subdued_dark="*neutral_400",
    background_fill_primary="white",
    background_fill_primary_dark="*neutral_900",
    background_fill_secondary="*neutral_100",
    background_fill_secondary_dark="*neutral_900",
    border_color_primary="*neutral_200",
    border_color_primary_dark="*neutral_800",
    border_color_accent="*primary_500",
    color_accent="*primary_600",
    color_accent_soft="*primary_50",
    color_accent_soft_dark="*primary_950",
    link_text_color="*primary_700",
    link_text_color_dark="*primary_300",
    link_text_color_hover="*primary_800",
    link_text_color_hover_dark="*primary_200",
    link_text_color_visited="*primary_700",
    link_text_color_visited_dark="*primary_300",
    block_background_fill="white",
    block_background_fill_dark="*neutral_900",
    block_border_width="1px",
    block_shadow="none",
    block_title_text_weight="500",
    block_title_text_color="*neutral_800",
    block_title_text_color_dark="*neutral_200",
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
    button_primary_text_color="white",
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
    button_large_text_weight="600",
    button_large_padding="10px 16px",
    button_small_text_weight="500",
    error_text_color="#a3271b",
    error_text_color_dark="#f3a49b",
    error_background_fill="#fdf1ef",
    error_background_fill_dark="#2c1512",
    error_border_color="#e9b7b0",
    error_border_color_dark="#6d2f27",
)

CSS = """
body { background: var(--body-background-fill) !important; }
.gradio-container > .main.app { max-width: 1240px; width: 100%; margin: 0 auto;
  padding: clamp(16px, 2.5vw, 28px) clamp(12px, 2.5vw, 28px) 12px; }
.html-container { padding: 0 !important; }
.html-container .prose p, .html-container .prose h1, .html-container .prose h2 { margin: 0; }
.masthead h1 { font-size: 24px; font-weight: 600; letter-spacing: -0.01em; line-height: 1.3; }
.masthead p { color: var(--body-text-color-subdued); }
.top { align-items: flex-start; }
.model { align-items: center; gap: 24px; }
.model .form { max-width: 380px; }
.part { font-size: 15px; font-weight: 600; line-height: 1.4; }
.html-container .prose h2.part { margin-top: 12px; }
.answers { gap: 12px; }
.ends { display: flex; justify-content: space-between; font-weight: 600; }

/* facts beside the model, and large figures */
.facts { display: flex; flex-wrap: wrap; gap: 6px 28px; margin: 0; }
.facts div { display: flex; flex-direction: column; }
.facts dt, .figures dt { font-size: 12px; color: var(--body-text-color-subdued); font-weight: 400; }
.facts dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.figures { display: flex; flex-wrap: wrap; gap: 1px; margin: 0;
  background: var(--border-color-primary); border: 1px solid var(--border-color-primary); border-radius: 8px;
  overflow: hidden; }
.figures div { flex: 1 1 130px; background: var(--block-background-fill); padding: 12px 16px; }
.figures dd { margin: 0; font-size: 22px; font-weight: 600; font-variant-numeric: tabular-nums; line-height: 1.3; }
.figures dd.meaning { font-size: 12px; font-weight: 400; color: var(--body-text-color-subdued); line-height: 1.4; }

/* notes */
.note { color: var(--body-text-color-subdued); overflow-wrap: anywhere; }
.note.failed { color: var(--error-text-color); background: var(--error-background-fill);
  border: 1px solid var(--error-border-color); border-radius: 8px; padding: 10px 14px; }
.text { max-width: 76ch; }
.placeholder { display: flex; flex-direction: column; gap: 4px; align-items: center; justify-content: center;
  text-align: center; min-height: 260px; padding: 24px; border: 1px dashed var(--input-border-color);
  border-radius: 8px; }
.placeholder strong { font-weight: 600; }
.placeholder span { max-width: 48ch; color: var(--body-text-color-subdued); }

/* tables */
figure.table, figure.chart { margin: 12px 0 0; }
figure.table figcaption, figure.chart figcaption { margin-bottom: 6px; }
figure.table .scroll { overflow-x: auto; border: 1px solid var(--border-color-primary); border-radius: 8px; }
figure.table table { width: 100%; margin: 0; border: 0 !important; border-collapse: collapse;
  background: var(--block-background-fill); }
figure.table th, figure.table td { padding: 7px 14px; text-align: right; white-space: nowrap; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important; font-variant-numeric: tabular-nums; }
figure.table tr { border: 0 !important; }
figure.table tbody tr:last-child > * { border-bottom: 0 !important; }
figure.table table th:first-child { text-align: left; font-weight: 400; }
figure.table thead th { font-size: 12px; font-weight: 400; color: var(--body-text-color-subdued); }
figure.table > p { margin-top: 6px; font-size: 12px; color: var(--body-text-color-subdued); }

/* charts */
figure.chart svg { width: 100%; height: auto; display: block; overflow: visible; }
figure.chart rect, figure.chart polygon { fill: var(--primary-400); opacity: 0.6; }
figure.chart line { stroke: var(--input-border-color); }
figure.chart polyline { fill: none; stroke: var(--body-text-color); stroke-width: 1.5; stroke-linejoin: round; }
figure.chart text { font-size: 12px; fill: var(--body-text-color-subdued); text-anchor: middle; }
.legend { display: flex; gap: 18px; font-size: 12px; }
.html-container .prose .legend { margin-bottom: 6px; }
.legend span { color: var(--body-text-color-subdued); }
.legend span::before { content: ""; display: inline-block; width: 14px; height: 8px; margin-right: 6px; }
.legend .seen::before { background: var(--primary-400); opacity: 0.6; }
.legend .expected::before { height: 0; border-top: 2px solid var(--body-text-color); vertical-align: middle; }

/* pictures: as large as there is room, few pixels as pixels, captions below */
img[data-few] { image-rendering: pixelated; }
.controls .image-frame, .controls .image-frame img { width: 100%; height: 100%; }
.controls .image-frame img { object-fit: contain; }
.picture .image-frame { width: 100%; }
.picture .image-frame img { width: 100%; max-height: 500px; object-fit: contain; }
.pictures .grid-wrap.fixed-height { min-height: 0; max-height: none; padding: 12px; }
.pictures .grid-container { --least: 72px; gap: 12px; padding-top: 0; grid-auto-rows: auto;
  grid-template-columns: repeat(
  auto-fill, minmax(max(var(--least), calc((100% - (var(--grid-cols) - 1) * 12px) / var(--grid-cols))), 1fr)); }
.pictures.large .grid-container { --least: 150px; }
.pictures .thumbnail-lg { display: flex; flex-direction: column; height: auto; aspect-ratio: auto; border: 0;
  border-radius: 0; background: none; overflow: visible; box-shadow: none; }
.pictures .thumbnail-lg img { aspect-ratio: 1; height: auto; border-radius: 2px;
  background: var(--background-fill-secondary); }
.pictures .thumbnail-lg .caption-label { position: static; max-width: 100%; padding: 4px 0 0; border: 0;
  background: none; text-align: left; white-space: normal; font-size: 12px; color: var(--body-text-color-subdued); }

.answers button.sm { align-self: flex-start; width: auto; padding: 6px 14px; }
.card { overflow-x: auto; }
.card th, .card td { word-break: normal; overflow-wrap: normal; }
.card table, .card tr, .card td, .card th { border-color: var(--border-color-primary) !important; }

/* Gradio has one colour each for these, too dark or too light on a dark page */
.dark { --color-accent: var(--primary-400); }
.dark input[type="range"] { --neutral-200: var(--neutral-700); }

/* the keyboard's place is always seen */
:focus-visible { outline: 2px solid var(--primary-500) !important; outline-offset: 2px; }

footer img { display: none !important; }

/* what can be set stays in sight while the results scroll */
@media (min-width: 900px) and (min-height: 760px) {
  .controls { position: sticky; top: 16px; }
}
@media (max-width: 640px) {
  .model { flex-direction: column; align-items: stretch; gap: 12px; }
  .model .form { max-width: none; }
  .masthead h1 { font-size: 20px; }
  [role="tab"] { padding: 0 9px !important; font-size: 13px !important; }
  figure.chart text { font-size: 21px; }
  .facts { gap: 6px 20px; }
  figure.table th, figure.table td { padding: 6px 10px; }
}
"""

OTHER_THEME = """() => {
  const dark = document.body.classList.toggle('dark')
  localStorage.setItem('latent-ae-theme', dark ? 'dark' : 'light')
}"""
"""script of the button that goes from light to dark and back"""

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
"""script of the page: the theme that was chosen here before, a mark on images of few pixels, names for examples"""
