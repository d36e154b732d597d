"""One reader for all: the same bytes give the same pixels in data preparation, prediction and the live loop."""

import io
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from ferjax.data.prepare import decoding
from ferjax.errors import InputError
from ferjax.runtime import load, predict
from ferjax.runtime.sources import pictures
from ferjax.runtime.sources.factory import open_source
from tests.support import small_files
from tests.support.small_files import RGB

SIZE = 8
RAMP = np.arange(64, dtype=np.uint8).reshape(SIZE, SIZE) * 4  # no two rows or columns alike
COLOR = np.stack([RAMP, RAMP.T, 255 - RAMP], -1)
ALPHA = RAMP[::-1].copy()
ALPHA[0] = 0


def saved(pixels, kind, **options):
    buffer = io.BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def on_white(color, alpha):
    opaque = alpha[..., None] / 255
    return np.rint(255 * (1 - opaque) + color * opaque)


def gray_png(depth, transparent):
    """A gray PNG of one row, the values 0..7 or as many as there are, one of them transparent; and its pixels."""
    values = [v % 2**depth for v in range(8)]
    row = int("".join(format(v, f"0{depth}b") for v in values), 2).to_bytes(depth, "big")
    body = [(b"IHDR", struct.pack(">IIBBBBB", 8, 1, depth, 0, 0, 0, 0)), (b"tRNS", struct.pack(">H", transparent))]
    body += [(b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    data = b"".join(struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in body)
    gray = [255 if v == transparent else round(v * 255 / (2**depth - 1)) for v in values]
    return b"\x89PNG\r\n\x1a\n" + data, np.repeat(np.array(gray)[None, :, None], 3, 2)


def turned(kind, **options):
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored picture has to be turned clockwise
    return saved(COLOR, kind, exif=exif, **options), np.rot90(COLOR, -1)


def pgm(maximum):
    """A PGM file of 8x8 values up to `maximum`; and its pixels."""
    values = np.linspace(0, maximum, 64).round().astype(int)
    data = f"P5 8 8 {maximum}\n".encode() + values.astype(">u2" if maximum > 255 else "u1").tobytes()
    return data, np.repeat((values * 255 / maximum).reshape(8, 8, 1), 3, 2)


def palette_with_transparency():
    picture = Image.fromarray(COLOR).quantize(16)
    picture.info["transparency"] = 3
    clear = (np.asarray(picture) == 3)[..., None]
    return saved(picture, "PNG", transparency=3), np.where(clear, 255, np.asarray(picture.convert("RGB")))


def lab():
    """L* 50 and a*, b* 0 is the gray 119 of sRGB; L* 54.29, a* 80.81, b* 69.89 is its pure red (D50, as in ICC)."""
    picture = Image.new("LAB", (8, 8), (128, 128, 128))
    picture.paste((138, 209, 198), (0, 4, 8, 8))
    rows = np.full((8, 8, 3), 119)
    rows[4:] = (255, 0, 0)
    return saved(picture, "TIFF"), rows


three = np.repeat(RAMP[..., None], 3, 2)
gray_alpha = np.stack([RAMP, ALPHA], -1)
FILES = {  # what it is: (bytes, pixels as RGB, largest difference)
    "png": (saved(COLOR, "PNG"), COLOR, 0),
    "bmp": (saved(COLOR, "BMP"), COLOR, 0),
    "gray png": (saved(RAMP, "PNG"), three, 0),
    "16 bit png": (saved(RAMP.astype(np.uint16) * 257, "PNG"), three, 0),
    "float tiff": (saved(RAMP.astype(np.float32) / 255, "TIFF"), three, 0),
    "lab tiff": (*lab(), 5),
    "jpeg": (saved(np.repeat(RAMP[:, :1], 8, 1), "JPEG", quality=100), np.repeat(three[:, :1], 8, 1), 2),
    "cmyk jpeg": (
        saved(Image.new("RGB", (8, 8), (250, 240, 10)).convert("CMYK"), "JPEG", quality=100),
        (250, 240, 10),
        12,
    ),
    "avif": (saved(np.repeat(three[:, :1], 8, 1), "AVIF", quality=100), np.repeat(three[:, :1], 8, 1), 3),
    "jpeg 2000": (saved(COLOR, "JPEG2000"), COLOR, 0),
    "turned jpeg": (*turned("JPEG", quality=100, subsampling=0), 6),
    "turned png": (*turned("PNG"), 0),
    "turned webp": (*turned("WEBP", lossless=True), 0),
    "turned tiff": (*turned("TIFF"), 0),
    "transparent png": (saved(np.dstack([COLOR, ALPHA]), "PNG"), on_white(COLOR, ALPHA), 1),
    "transparent webp": (
        saved(np.dstack([COLOR, ALPHA]), "WEBP", lossless=True, exact=True),
        on_white(COLOR, ALPHA),
        1,
    ),
    "transparent tiff": (saved(np.dstack([COLOR, ALPHA]), "TIFF"), on_white(COLOR, ALPHA), 1),
    "transparent gray png": (saved(gray_alpha, "PNG"), on_white(three, ALPHA), 1),
    "palette with transparency": (*palette_with_transparency(), 0),
    **{f"{depth} bit gray with a transparent value": (*gray_png(depth, 1), 0) for depth in (1, 2, 4, 8, 16)},
    **{f"pgm up to {maximum}": (*pgm(maximum), 1) for maximum in (31, 255, 1000, 65535)},
    "dark pgm of 16 bits": (b"P5 8 8 65535\n" + bytes(128), np.zeros((8, 8, 3)), 0),
    "ppm up to 1000": (b"P6 8 8 1000\n" + np.full((8, 8, 3), (1000, 500, 0), ">u2").tobytes(), (255, 127.5, 0), 1),
    "plain pbm": (b"P1 8 8\n" + b"1 0 " * 32, np.tile([[[0] * 3, [255] * 3]], (8, 4, 1)), 0),
}


@pytest.mark.parametrize("kind", FILES)
def test_pixels_are_right(kind):
    data, wanted, tolerance = FILES[kind]
    found = np.asarray(pictures.read(data).image.convert("RGB"), float)
    assert np.abs(found - wanted).max() <= tolerance


@pytest.mark.parametrize("kind", FILES)
def test_the_pixels_are_the_same_under_every_name_and_in_every_command(tmp_path, kind):
    data, _, _ = FILES[kind]
    (tmp_path / "face").write_bytes(data)
    (without_ending,) = (frame.image for frame in open_source(tmp_path / "face"))
    folder = tmp_path / "faces"
    folder.mkdir()
    for name in ("face.png", "face.JPG", "face.jfif", "face.tiff", "face.gif"):
        (folder / name).write_bytes(data)
    frames = [frame.image for frame in open_source(folder)]
    np.testing.assert_array_equal(frames, [without_ending] * 5)
    height, width = without_ending.shape[:2]
    trained = decoding.decode(data, height, 3).image
    left = (width - height) // 2
    np.testing.assert_array_equal(trained, without_ending[:, left : left + height, ::-1])
    model = load(small_files.onnx_file(tmp_path / "m.onnx", RGB.replace(input_size=(height, height))))
    wanted = model.probabilities(trained[None])[0]
    for _, predicted in predict.predict_folder(model, folder):
        np.testing.assert_allclose(list(predicted.probabilities.values()), wanted, atol=1e-6)


def test_a_transparent_gif_is_laid_on_white():
    picture = Image.fromarray(COLOR).quantize(16)
    clear = (np.asarray(picture) == 3)[..., None]
    found = pictures.read(saved(picture, "GIF", transparency=3))
    np.testing.assert_array_equal(found.image, np.where(clear, 255, np.asarray(picture.convert("RGB"))))
    assert found.remarks == ("transparent, laid on white",)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_every_orientation_is_applied_once(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = pictures.read(saved(COLOR, kind, exif=exif))
    with Image.open(io.BytesIO(saved(COLOR, "PNG", exif=exif))) as picture:
        np.testing.assert_array_equal(found.image, ImageOps.exif_transpose(picture))
    assert found.remarks == (("rotated as the EXIF tag says",) if orientation != 1 else ())


def test_damaged_exif_data_leave_the_image_readable():
    np.testing.assert_array_equal(pictures.read(saved(COLOR, "PNG", exif=b"MM?damaged")).image, COLOR)


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "it is empty"),
        (b"no image", "not an image"),
        (saved(COLOR, "JPEG")[:-40], "(?i)truncated"),
        (saved(np.full((8, 8), np.nan, np.float32), "TIFF"), "not a number"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n", "not an image"),  # would run Ghostscript
    ],
)
def test_what_is_unreadable_says_why(tmp_path, data, reason):
    with pytest.raises(pictures.UnreadableImage, match=reason):
        pictures.read(data)
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(pictures.UnreadableImage, match=reason):
        pictures.read_bgr(tmp_path / "a.png")


def test_an_image_of_200_megapixels_is_not_too_large():
    with pytest.raises(pictures.UnreadableImage, match="truncated"):  # not: too large
        pictures.read(b"P5 16320 12240 255\n" + bytes(9))


def test_a_folder_lists_its_images_in_natural_order_and_counts_the_others(tmp_path, capsys):
    for name in ("b10.AVIF", "b9.jfif", "a/c.jpe", "x.heic", "y.HEIC", "README", "z.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = pictures.listed(tmp_path, tmp_path.rglob("*"))
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a/c.jpe", "b9.jfif", "b10.AVIF"]
    (line,) = capsys.readouterr().err.splitlines()
    assert "4 files passed over" in line and ".heic 2" in line and ".txt 1" in line and "no ending 1" in line


LEFTOVERS = ("._b.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/b.jpg", "@eaDir/b.jpg", ".hidden/b.png")


def test_leftovers_of_operating_systems_are_ignored_silently(tmp_path, capsys):
    (tmp_path / "b.jpg").write_bytes(saved(COLOR, "JPEG"))
    for name in LEFTOVERS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    assert pictures.listed(tmp_path, tmp_path.rglob("*")) == [tmp_path / "b.jpg"]
    assert [frame.name for frame in open_source(tmp_path)] == ["b.jpg"]
    assert capsys.readouterr().err == ""


def test_a_folder_without_an_image_says_what_it_has(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"")
    with pytest.raises(InputError, match=r"no image; 1 file passed over, not images: \.heic 1; accepted: \.jpg"):
        pictures.listed(tmp_path, tmp_path.iterdir())
    (tmp_path / "happy").mkdir()
    (tmp_path / "happy" / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match="no image, but its subfolders have"):
        open_source(tmp_path)


@pytest.mark.parametrize("kind", ["GIF", "PNG"])
def test_an_animation_is_a_video_by_itself_and_its_first_frame_in_a_folder(tmp_path, kind):
    frames = [Image.new("RGB", (64, 48), (v, v, v)) for v in (30, 120, 220)]
    path = tmp_path / "film.jpg"
    path.write_bytes(saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=100))
    with open_source(path) as source:
        assert not source.stills and len(list(source)) == 3
    (first,) = open_source(tmp_path)
    assert (first.image == 30).all()


@pytest.mark.parametrize("before", ["", "\r\n--frame\r\nContent-Type: image/jpeg\r\n\r\n"])
def test_motion_jpeg_is_a_video(tmp_path, before):
    frames = [saved(Image.new("RGB", (64, 48), (v, v, v)), "JPEG") for v in (30, 120, 220)]
    path = tmp_path / "film.mjpeg"
    for start in (b"", before.encode()):
        path.write_bytes(start + before.encode().join(frames))
        with open_source(path) as source:
            assert not source.stills and len(list(source)) == 3
    path.write_bytes(frames[0])
    with open_source(path) as source:
        assert source.stills and len(list(source)) == 1


def test_prepare_says_why_an_image_cannot_be_decoded(tmp_path):
    from ferjax.data.datasets import folder
    from ferjax.data.prepare import pipeline

    for name in ("happy", "sad"):
        (tmp_path / "faces" / name).mkdir(parents=True)
        (tmp_path / "faces" / name / "a.jfif").write_bytes(saved(COLOR, "JPEG"))
    (tmp_path / "faces" / "sad" / "b.jpe").write_bytes(b"x")
    shutil.copy(tmp_path / "faces" / "sad" / "b.jpe", tmp_path / "faces" / "sad" / "._b.jpe")
    with pytest.raises(InputError, match=r"1 unusable image: sad/b\.jpe cannot be decoded: it is damaged"):
        pipeline.write("mine", folder.read(tmp_path / "faces", size=8), tmp_path / "data")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(200), "HEIC"),
        (b"%PDF-1.7\n" + bytes(200), "PDF"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\0\0\1\0\1\0" + bytes(200), "ICO"),
        (b"P7\nWIDTH 8\nHEIGHT 8\nDEPTH 3\nMAXVAL 255\nENDHDR\n" + bytes(192), "PAM"),
        *[(saved(COLOR, kind), kind) for kind in ("TGA", "PCX", "SGI", "DDS")],
        (b"qoif\0\0\0\x08\0\0\0\x08\3\0" + bytes(200), "QOI"),
        (b"8BPS\0\1" + bytes(200), "Photoshop"),
        (b"\xff\x0a" + bytes(200), "JPEG XL"),
        (b"v/1\1" + bytes(200), "OpenEXR"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 8 +X 8\n" + bytes(256), "Radiance HDR"),
        (b'/* XPM */\nstatic char *a[] = {\n"1 1 1 1",\n"a c #ffffff",\n"a"};\n', "XPM"),
        *[(saved(Image.new("1", (64, 48)), kind), kind) for kind in ("XBM", "MSP")],
        (b"SDPX" + bytes(2048), "DPX"),
        (b"\x59\xa6\x6a\x95" + bytes(200), "Sun raster"),
        *[
            (start + saved(COLOR, "JPEG"), "JPEG with other bytes before it")
            for start in (b"\r\n", b"\xef\xbb\xbf", bytes(16), b"--x\r\nContent-Type: image/jpeg\r\n\r\n", b"a " * 900)
        ],
    ],
)
def test_an_image_of_another_format_is_named_and_never_read_as_a_film(tmp_path, data, kind):
    path = tmp_path / "face.jpg"
    path.write_bytes(data)
    with pytest.raises(pictures.UnreadableImage, match=f"it is {kind}: convert it"):
        pictures.read(data)
    assert pictures.is_still(path)
    with pytest.raises(InputError, match=kind), open_source(str(path)) as source:
        list(source)
