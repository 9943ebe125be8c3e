import pytest

from latent_ae.data.source import DataError, hash_place, split_by_hash


def test_the_place_of_an_id_is_the_same_for_ever() -> None:
    # sha256("abc") = ba7816bf8f01... : the standard's own example
    assert hash_place("abc") == 0xBA7816BF8F01 / 2**48
    assert 0 <= hash_place("a name that is not UTF-8: \udcff") < 1


def test_the_share_is_kept_and_adding_images_moves_none() -> None:
    ids = [f"{i}.png" for i in range(4000)]
    train, heldout = split_by_hash(ids, 0.25, "x")
    assert sorted([*train, *heldout]) == list(range(4000))
    assert abs(len(heldout) / 4000 - 0.25) < 0.03
    fewer, _ = split_by_hash(ids[:100], 0.25, "x")
    assert fewer.tolist() == [index for index in train.tolist() if index < 100]


def test_an_empty_part_is_an_error_that_says_what_would_fill_it() -> None:
    ids = ["a", "b", "c"]  # at 0.7914, 0.2427, 0.1816: sha256sum
    with pytest.raises(DataError, match=r"x: none of its 3 images is held out with .* 0\.05: raise it to 0\.1816"):
        split_by_hash(ids, 0.05, "x")
    with pytest.raises(DataError, match=r"x: all of its 3 images are held out with .* 0\.9, .*: lower it to 0\.791\d"):
        split_by_hash(ids, 0.9, "x")
    assert [len(part) for part in split_by_hash(ids, 0.1817, "x")] == [2, 1]


@pytest.mark.parametrize("ids", [[], ["a"]])
def test_two_images_are_the_least(ids: list[str]) -> None:
    with pytest.raises(DataError, match=f"x holds {len(ids)} images, needs two or more"):
        split_by_hash(ids, 0.5, "x")
