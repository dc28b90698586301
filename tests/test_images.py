"""Decoding: colours are checked against values known from how the file was made."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from toolkit_datasets import images
from toolkit_datasets.card_data import Image as Geometry
from toolkit_datasets.images import Unreadable, decode_file

RGB = Geometry(size=8, channels=3)
GREY = Geometry(size=8, channels=1)


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "expected"),
    [
        ("RGB", (200, 100, 50), "png", (200, 100, 50)),
        ("L", 77, "png", (77, 77, 77)),
        ("1", 1, "png", (255, 255, 255)),
        ("P", 0, "gif", (0, 0, 0)),
        ("CMYK", (0, 255, 255, 0), "tif", (255, 0, 0)),  # no cyan, all magenta and yellow: red
        ("RGBA", (10, 20, 30, 0), "png", (255, 255, 255)),  # wholly transparent: the white below
        ("RGBA", (0, 0, 0, 128), "png", (127, 127, 127)),  # half black over white
        ("LA", (0, 0), "png", (255, 255, 255)),
        ("LAB", (255, 128, 128), "tif", (255, 255, 255)),  # L* = 100 and neutral: white
        ("I;16", 65535, "png", (255, 255, 255)),
        ("I;16", 4095, "tif", (255, 255, 255)),  # 12 bits stored in 16
        ("F", 0.5, "tif", (128, 128, 128)),
    ],
)
def test_every_mode_comes_out_as_the_right_rgb(
    mode: str, colour: object, suffix: str, expected: tuple[int, int, int], tmp_path: Path
) -> None:
    path = save(Image.new(mode, (16, 16), colour), tmp_path / f"x.{suffix}")
    decoded = decode_file(path, RGB)
    assert decoded.pixels.shape == (8, 8, 3)
    assert decoded.pixels.dtype == np.uint8
    assert np.abs(decoded.pixels[4, 4].astype(int) - expected).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(orientation: int, tmp_path: Path) -> None:
    upright = np.zeros((16, 16, 3), np.uint8)
    upright[:8, :8] = 255, 0, 0  # red top left, green top right, the rest black
    upright[:8, 8:] = 0, 255, 0
    transforms = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # how a camera that writes this tag stores the scene
    image = Image.fromarray(upright)
    if orientation in transforms:
        image = image.transpose(Image.Transpose(transforms[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode_file(save(image, tmp_path / "x.png", exif=exif), RGB).pixels
    assert tuple(pixels[1, 1]) == (255, 0, 0)
    assert tuple(pixels[1, 6]) == (0, 255, 0)
    assert pixels[6].max() == 0


def every_step(path: Path, wanted: Geometry) -> np.ndarray:
    """Decoding with every step taken, also where it changes nothing; for pictures that are cropped."""
    with Image.open(path) as image:
        image.draft(None, (2 * wanted.size, 2 * wanted.size))
        image.load()
        try:
            upright = ImageOps.exif_transpose(image)
        except Exception:
            upright = image.copy()
        turned = images._grey_or_rgb(upright, grey=wanted.channels == 1).convert("L" if wanted.channels == 1 else "RGB")
        side = min(turned.size)
        left, top = (turned.width - side) // 2, (turned.height - side) // 2
        square = turned.crop((left, top, left + side, top + side))
        pixels = np.asarray(square.resize((wanted.size, wanted.size), Image.Resampling.BILINEAR))
        return pixels.reshape(wanted.size, wanted.size, wanted.channels)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK"])
@pytest.mark.parametrize("size", [(8, 8), (24, 24), (40, 24), (23, 40), (400, 300)])
@pytest.mark.parametrize("orientation", [None, 1, 6, 9])
def test_steps_that_are_left_out_would_have_changed_nothing(
    mode: str, size: tuple[int, int], orientation: int | None, tmp_path: Path
) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8)).convert(mode)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    path = save(noise, tmp_path / f"x.{'png' if mode in ('P', 'RGBA') else 'jpg'}", exif=exif)
    for wanted in (RGB, GREY):
        assert np.array_equal(decode_file(path, wanted).pixels, every_step(path, wanted))


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")]
    path = save(frames[0], tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert tuple(decode_file(path, RGB).pixels[0, 0]) == (255, 0, 0)


def test_fit_crops_pads_or_squashes(tmp_path: Path) -> None:
    wide = np.zeros((16, 32, 3), np.uint8)
    wide[:, 8:24] = 255  # white in the middle half, black at both sides
    path = save(Image.fromarray(wide), tmp_path / "x.png")
    crop, pad, squash = (
        decode_file(path, Geometry(size=8, channels=1, fit=fit)).pixels[..., 0] for fit in ("crop", "pad", "squash")
    )
    assert crop.min() > 240
    assert pad[0].max() == pad[7].max() == 0
    assert pad[4, 3:5].min() > 240
    assert squash[0, 0] == 0
    assert squash[0, 3:5].min() > 240


def test_a_padded_panorama_never_stands_on_a_square_of_its_own_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(Image.new("L", (4000, 50), 255), tmp_path / "x.png")
    sizes, new = [], Image.new
    monkeypatch.setattr(Image, "new", lambda mode, size, *rest: sizes.append(size) or new(mode, size, *rest))
    pixels = decode_file(path, Geometry(size=8, channels=1, fit="pad")).pixels[..., 0]
    assert max(map(max, sizes), default=0) <= 8
    assert np.sort(pixels.max(axis=1)).tolist() == [0] * 7 + [255], "one line of it is left, on black"


def test_a_large_jpeg_decodes_like_a_small_one(tmp_path: Path) -> None:
    gradient = np.linspace(0, 255, 2048).astype(np.uint8)
    path = save(Image.fromarray(np.tile(gradient, (2048, 1))), tmp_path / "x.jpg", quality=95)
    row = decode_file(path, GREY).pixels[4, :, 0].astype(int)
    assert np.abs(row - (np.arange(8) + 0.5) * 255 / 8).max() <= 5  # the filter leans inwards at the two ends


def test_unreadable_files_say_why(tmp_path: Path) -> None:
    good = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(good, "JPEG")
    bomb = (
        b"GIF89a"
        + (60000).to_bytes(2, "little") * 2
        + b"\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x60\xea\x60\xea\0\x02\x02L\1\0;"
    )
    cases = {
        "empty.jpg": (b"", "empty"),
        "text.jpg": (b"version https://git-lfs", "not an image"),
        "cut.jpg": (good.getvalue()[:900], "truncated"),
        "bomb.gif": (bomb, "bomb"),
    }
    for name, (data, reason) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(Unreadable, match=reason):
            decode_file(tmp_path / name, RGB)
    with pytest.raises(Unreadable, match="cannot be read"):
        decode_file(tmp_path / "missing.jpg", RGB)


def test_the_odd_files_found_in_the_wild(real_data: Path) -> None:
    folder = real_data / "cats_vs_dogs_corrupt"
    unreadable = {
        "dog.0.jpg",
        "truncated_jpeg.jpg",
        "truncated_image.png",
        "broken.png",
        "broken_data_stream.png",
        "cross_scan_line_truncated.tga",
        "decompression_bomb.gif",
    }
    wanted = Geometry(size=64, channels=3)
    decoded = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in (".md", "") or path.name.startswith("."):
            continue
        try:
            decoded[path.name] = decode_file(path, wanted).pixels.astype(float)
        except Unreadable:
            assert path.name in unreadable, path.name
        if decoded.get(path.name) is not None:
            assert np.array_equal(decoded[path.name], every_step(path, wanted)), path.name
    assert unreadable.isdisjoint(decoded)
    same_portrait = ("hopper.webp", "hopper.Lab.tif", "hopper_orientation_2.jpg", "hopper_orientation_6.jpg")
    for name in same_portrait:  # one picture in many formats: turned or miscoloured, it would differ by far more
        assert np.abs(decoded[name] - decoded["hopper.gif"]).mean() < 6, name
