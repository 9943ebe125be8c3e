import numpy as np
from sklearn.datasets import load_digits

from latent_ae.data.sources.digits import Digits, DigitsConfig


def test_every_fifth_digit_is_held_out_with_its_label() -> None:
    parts = DigitsConfig().open()
    assert isinstance(parts.train, Digits)
    assert isinstance(parts.heldout, Digits)
    assert (len(parts.train), len(parts.heldout)) == (1438, 359)
    assert [parts.train.sample_id(i) for i in (0, 3, 4)] == ["digits/0000", "digits/0003", "digits/0005"]
    assert [parts.heldout.sample_id(i) for i in (0, 358)] == ["digits/0004", "digits/1794"]
    table = load_digits()
    assert np.array_equal(parts.heldout.labels, table.target[4::5])
    assert np.abs(parts.heldout.raw / 255 - table.images[4::5] / 16).max() <= 0.5 / 255
    assert parts.train.raw.shape == (1438, 8, 8)
    assert (parts.train.raw.min(), parts.train.raw.max()) == (0, 255)


def test_a_digit_is_enlarged_to_32_pixels() -> None:
    part = DigitsConfig().open().train
    assert isinstance(part, Digits)
    image = part.load(7)
    assert (image.size, image.mode) == ((32, 32), "L")
    blocks = np.asarray(image, float).reshape(8, 4, 8, 4).mean((1, 3))
    assert np.corrcoef(blocks.ravel(), part.raw[7].ravel())[0, 1] > 0.98
    assert np.corrcoef(blocks.T.ravel(), part.raw[7].ravel())[0, 1] < 0.9
