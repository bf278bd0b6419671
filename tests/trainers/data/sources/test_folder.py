"""Folders of images: what is read, and broken ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from trainers.config import VOID, DataConfig, SplitLists
from trainers.data import load_dataset, make_split
from trainers.errors import DataError


def get_message(folder: Path, **options: object) -> str:
    """Return the message for a folder that cannot be used."""
    with pytest.raises(DataError) as caught:
        load_dataset(DataConfig(source=str(folder), **options))
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_no_images_folder(folder: Path) -> None:
    """The message names what is there instead."""
    (folder / "images").rename(folder / "pictures")
    assert "images: not found" in get_message(folder)
    assert "holds masks, pictures" in get_message(folder)


def test_empty_folder(folder: Path) -> None:
    """Files of other kinds are counted in the message."""
    for file in (folder / "images").iterdir():
        file.rename(file.with_suffix(".webp"))
    assert "no images; found 20 of .webp. Allowed: .png" in get_message(folder)


def test_missing_pairs(folder: Path) -> None:
    """The first few without a partner are listed, and their number, for both sides."""
    for index in range(7):
        (folder / "masks" / f"tile{index:02d}.png").unlink()
    (folder / "images" / "tile19.png").unlink()
    message = get_message(folder)
    assert "7 of 19 images lack a file of the same stem in masks/: tile00.png, tile01.png" in message
    assert "1 of 13 masks lack a file of the same stem in images/: tile19.png" in message


def test_same_stem_twice(folder: Path) -> None:
    """Two files that would be one image are named."""
    shutil.copy(folder / "images" / "tile03.png", folder / "images" / "tile03.bmp")
    assert "tile03.png: has the same stem as tile03.bmp" in get_message(folder)


@pytest.mark.parametrize("part", ["images", "masks"])
@pytest.mark.parametrize("keep", [0, 20, 90])
def test_broken_file(folder: Path, part: str, keep: int) -> None:
    """An image that is cut off is named with its size."""
    file = folder / part / "tile05.png"
    file.write_bytes(file.read_bytes()[:keep])
    assert f"{file}: cannot be read as an image, {keep} bytes" in get_message(folder)


def test_jpeg_mask(folder: Path) -> None:
    """A mask under JPEG is rejected, by suffix and by content."""
    mask = folder / "masks" / "tile05.png"
    lossy = mask.with_suffix(".jpg")
    Image.fromarray(np.zeros((16, 32), np.uint8)).save(lossy)
    shutil.move(lossy, mask)
    assert "tile05.png: mask is a JPEG" in get_message(folder)
    mask.rename(lossy)
    assert "tile05.jpg: mask is a JPEG" in get_message(folder)


def test_coloured_mask(folder: Path) -> None:
    """A mask of colours instead of ids is rejected with its mode."""
    mask = folder / "masks" / "tile05.png"
    Image.fromarray(np.zeros((16, 32, 3), np.uint8)).save(mask)
    assert "tile05.png: mask of mode 'RGB' with 3 channel(s). Allowed: one channel" in get_message(folder)


def test_sixteen_bit_image(folder: Path) -> None:
    """Images of more than 8 bits are rejected rather than cut."""
    image = folder / "images" / "tile05.png"
    cv2.imwrite(str(image), np.full((16, 32), 4000, np.uint16))
    assert "tile05.png: image of mode 'I;16'" in get_message(folder)


def test_mask_of_another_size(folder: Path) -> None:
    """Image and mask that do not lie on each other are named with both sizes."""
    mask = folder / "masks" / "tile05.png"
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(mask)
    message = get_message(folder)
    assert "tile05.png: 16x16 (height x width)" in message
    assert "is 16x32" in message


def test_differing_sizes(folder: Path) -> None:
    """Images of two sizes need data.size, and then fit."""
    for part in ("images", "masks"):
        file = folder / part / "tile05.png"
        Image.fromarray(np.zeros((24, 64), np.uint8)).save(file)
    assert "24x64 (height x width), but" in get_message(folder)
    assert "set data.size" in get_message(folder)
    assert load_dataset(DataConfig(source=str(folder), size=(16, 32))).images.shape == (20, 16, 32, 1)


def test_unknown_ids(folder: Path) -> None:
    """The mask with an id beyond the declared classes is named."""
    mask = folder / "masks" / "tile05.png"
    Image.fromarray(np.full((16, 32), 77, np.uint8)).save(mask)
    assert "masks/tile05.png: unknown label ids 77. Allowed: 0 to 4 and 255 (void)" in get_message(folder, num_classes=5)


def test_sixteen_bit_ids_are_mapped(folder: Path) -> None:
    """Ids beyond 255 are read whole and mapped; without a map they are unknown."""
    for index, mask in enumerate(sorted((folder / "masks").iterdir())):
        cv2.imwrite(str(mask), np.full((16, 32), 1000 + index % 2, np.uint16))
    assert "unknown label ids 1000" in get_message(folder)
    data = load_dataset(DataConfig(source=str(folder), id_map={1000: 1, 1001: 0}))
    assert data.masks[:2, 0, 0].tolist() == [1, 0]


def test_palette_masks_keep_their_indices(folder: Path, tiles) -> None:
    """A palette gives the viewer colours; the ids are the indices."""
    for mask in (folder / "masks").iterdir():
        coloured = Image.fromarray(cv2.imread(str(mask), cv2.IMREAD_UNCHANGED))
        coloured.putpalette([200, 10, 10, 0, 200, 0, 0, 0, 200, 90, 90, 0, 7, 7, 7])
        assert coloured.mode == "P"
        coloured.save(mask)
    np.testing.assert_array_equal(load_dataset(DataConfig(source=str(folder))).masks, tiles.masks)


def test_colour_is_found_and_can_be_dropped(folder: Path) -> None:
    """One coloured image makes three channels, unless gray is asked for."""
    image = folder / "images" / "tile05.png"
    Image.fromarray(np.zeros((16, 32, 3), np.uint8)).save(image)
    assert load_dataset(DataConfig(source=str(folder))).images.shape[-1] == 3
    assert load_dataset(DataConfig(source=str(folder), color="gray")).images.shape[-1] == 1


def test_jpeg_images_are_read(folder: Path, tiles) -> None:
    """Images may be JPEG, of either suffix."""
    for index, image in enumerate(sorted((folder / "images").iterdir())):
        image.unlink()
        cv2.imwrite(str(image.with_suffix(".jpg" if index % 2 else ".jpeg")), tiles.images[index])
    assert load_dataset(DataConfig(source=str(folder))).images.shape == (20, 16, 32, 1)


def test_void_is_no_class(folder: Path) -> None:
    """The value 255 does not count as a label."""
    Image.fromarray(np.full((16, 32), VOID, np.uint8)).save(folder / "masks" / "tile05.png")
    assert load_dataset(DataConfig(source=str(folder))).num_classes == 5


def lists(folder: Path, train: str, val: str) -> dict[str, SplitLists]:
    """Write both split lists and return the option that names them."""
    (folder / "train.txt").write_text(train)
    (folder / "val.txt").write_text(val)
    return {"split_lists": SplitLists(train="train.txt", val="val.txt")}


def test_split_lists_win(folder: Path) -> None:
    """Lists fix both sides; images on neither are left out."""
    val = "tile03\n\ntile01\n"
    train = "\n".join(f"tile{index:02d}" for index in range(4, 20))
    config = DataConfig(source=str(folder), **lists(folder, train, val))
    split = make_split(load_dataset(config), config, None)
    assert split.val.tolist() == [1, 3]
    assert split.train.tolist() == list(range(4, 20))


def test_split_lists_are_part_of_the_fingerprint(folder: Path) -> None:
    """Another split is another data set."""
    train = "\n".join(f"tile{index:02d}" for index in range(4, 20))
    one = load_dataset(DataConfig(source=str(folder), **lists(folder, train, "tile03"))).fingerprint
    other = load_dataset(DataConfig(source=str(folder), **lists(folder, train, "tile02"))).fingerprint
    assert len({one, other, load_dataset(DataConfig(source=str(folder))).fingerprint}) == 3


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        ("tile00\ntile99", "tile01", "1 of 3 stems have no image: tile99. Did you mean"),
        ("tile00\ntile01", "tile01", "1 stem(s) listed twice: tile01"),
        ("tile00", "\n", "val.txt: lists no image"),
    ],
)
def test_broken_split_lists(folder: Path, train: str, val: str, message: str) -> None:
    """Lists that do not fit the images are named with what is wrong."""
    assert message in get_message(folder, **lists(folder, train, val))


def test_missing_split_list(folder: Path) -> None:
    """A list that does not exist is named."""
    assert "gone.txt: not found" in get_message(folder, split_lists=SplitLists(train="gone.txt", val="gone.txt"))


def test_split_lists_need_a_folder(tmp_path: Path, write_npz) -> None:
    """A .npz has no stems to list."""
    with pytest.raises(DataError, match="only with a folder"):
        load_dataset(DataConfig(source=str(write_npz(tmp_path / "a.npz")), split_lists=SplitLists(train="a", val="b")))
