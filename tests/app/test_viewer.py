"""The viewer's markup; `browser/test_viewer.py` has what becomes of it."""

import pytest

pytestmark = pytest.mark.usefixtures("gradio_folder")


def test_names_figures_and_paths_are_escaped() -> None:
    from latent_ae.app.viewer import Picture, viewer

    made = viewer([Picture('/tmp/a "b"?.png', "<b>", 'x" onclick="y'), Picture("/tmp/c.png", "C")])
    assert made == (
        '<pixel-viewer><a href="gradio_api/file=/tmp/a%20%22b%22%3F.png" data-figures="x&quot; onclick=&quot;y">'
        '&lt;b&gt;</a><a href="gradio_api/file=/tmp/c.png" data-figures="">C</a></pixel-viewer>'
    )


def test_a_caption_is_the_name_and_the_figures_if_there_are_any() -> None:
    from latent_ae.app.viewer import Picture

    assert Picture("a.png", "A", "31.2 dB").caption == "A \N{MIDDLE DOT} 31.2 dB"
    assert Picture("a.png", "A").caption == "A"


def test_one_picture_is_not_compared() -> None:
    from latent_ae.app.viewer import Picture, viewer

    with pytest.raises(ValueError, match="two pictures, got 1"):
        viewer([Picture("a.png", "A")])


def test_nothing_ends_the_script_and_the_style_early_or_comes_from_elsewhere() -> None:
    from latent_ae.app.viewer import HEAD

    assert HEAD.count("</script>") == HEAD.count("</style>") == 1
    assert "http" not in HEAD
