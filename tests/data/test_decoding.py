import io

import numpy as np
import pytest
from PIL import Image

from ferjax.data.prepare.decoding import decode


def encode(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def ramp():
    """uint8 (8, 8): no two rows or columns alike."""
    return (np.arange(64).reshape(8, 8) * 4).astype(np.uint8)


def test_a_gray_png_is_decoded_exactly(ramp):
    decoded = decode(encode(Image.fromarray(ramp)), 8, 1)
    np.testing.assert_array_equal(decoded.image[..., 0], ramp)
    assert decoded.image.dtype == np.uint8 and decoded.remarks == ()


def test_gray_becomes_three_equal_channels(ramp):
    np.testing.assert_array_equal(decode(encode(Image.fromarray(ramp)), 8, 3).image, np.repeat(ramp[..., None], 3, -1))


def test_gray_conversion_equals_the_live_loop():
    cv2 = pytest.importorskip("cv2")
    color = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    ours = decode(encode(Image.fromarray(color)), 8, 1).image[..., 0].astype(int)
    assert np.abs(ours - cv2.cvtColor(color, cv2.COLOR_RGB2GRAY)).max() <= 1


def test_an_array_is_not_changed(ramp):
    np.testing.assert_array_equal(decode(ramp, 8, 1).image[..., 0], ramp)
    np.testing.assert_array_equal(decode(ramp[..., None], 8, 1).image[..., 0], ramp)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_exif_rotation_is_applied(ramp, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encode(Image.fromarray(ramp), exif=exif), 8, 1)
    # 3: by half a turn; 6: the stored picture has to be turned clockwise; 8: the other way.
    expected = np.rot90(ramp, {3: 2, 6: -1, 8: 1}[orientation])
    np.testing.assert_array_equal(decoded.image[..., 0], expected)
    assert decoded.remarks == ("rotated as the EXIF tag says",)


def test_sixteen_bits_are_scaled(ramp):
    deep = ramp.astype(np.uint16) * 257
    decoded = decode(encode(Image.fromarray(deep)), 8, 1)
    np.testing.assert_array_equal(decoded.image[..., 0], ramp)
    assert decoded.remarks == ("of more than 8 bits, scaled to 8",)


def test_float_pixels_in_0_1_are_scaled(ramp):
    decoded = decode(encode(Image.fromarray(ramp.astype(np.float32) / 255), "TIFF"), 8, 1)
    np.testing.assert_array_equal(decoded.image[..., 0], ramp)


def test_cmyk_is_not_inverted():
    white = Image.new("RGB", (8, 8), (250, 240, 10)).convert("CMYK")
    image = decode(encode(white, "JPEG", quality=100), 8, 3).image
    assert np.abs(image.astype(int) - (250, 240, 10)).max() < 12


def test_a_palette_is_converted_to_its_colors():
    picture = Image.new("RGB", (8, 8), (200, 30, 40)).quantize(4)
    assert picture.mode == "P"
    np.testing.assert_array_equal(decode(encode(picture), 8, 3).image, np.full((8, 8, 3), (200, 30, 40)))


def test_transparency_is_blended_with_white():
    decoded = decode(encode(Image.new("RGBA", (8, 8), (0, 0, 0, 0))), 8, 1)
    assert (decoded.image == 255).all() and decoded.remarks == ("transparent, laid on white",)
    opaque = decode(encode(Image.new("RGBA", (8, 8), (9, 9, 9, 255))), 8, 1)
    assert (opaque.image == 9).all() and opaque.remarks == ()


def test_the_first_frame_of_an_animation_is_used():
    frames = [Image.new("L", (8, 8), v) for v in (10, 200)]
    decoded = decode(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]), 8, 1)
    assert (decoded.image == 10).all()
    assert decoded.remarks == ("animated or of several pages, first one taken",)


def test_another_size_is_center_cropped_and_resized():
    wide = np.full((10, 40), 255, np.uint8)
    wide[:, 15:25] = 100
    decoded = decode(encode(Image.fromarray(wide)), 5, 1)
    assert decoded.image.shape == (5, 5, 1) and (decoded.image == 100).all()
    assert decoded.remarks == ("resized to 5x5",)


def test_downscaling_is_antialiased():
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    image = decode(encode(Image.fromarray(stripes)), 8, 1).image
    assert np.abs(image.astype(int) - 127).max() < 40


def test_a_box_is_cropped_and_clipped(ramp):
    np.testing.assert_array_equal(decode(ramp, 4, 1, box=(4, 4, 8, 8)).image[..., 0], ramp[4:, 4:])
    np.testing.assert_array_equal(decode(ramp, 4, 1, box=(4, 4, 9, 99)).image[..., 0], ramp[4:, 4:])
    with pytest.raises(ValueError, match="the face box"):
        decode(ramp, 4, 1, box=(20, 20, 30, 30))


@pytest.mark.parametrize("cut", [0, 20, 200])
def test_a_broken_file_raises(cut):
    data = encode(Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)), "JPEG")
    with pytest.raises(Exception):  # noqa: B017
        decode(data[:cut], 48, 1)
