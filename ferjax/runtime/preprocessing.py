"""Fits a face to the input of a model, for data preparation, `Model.prepare` and the live loop alike.

The filter is the one that `ModelSpec.interpolation` names. Pillow is imported on first use.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from ferjax.errors import InputError
from ferjax.spec import ModelSpec

if TYPE_CHECKING:
    from PIL import Image


def fit(picture: "Image.Image", size: tuple[int, int], channels: int) -> np.ndarray:
    """Converts the color of an 8-bit image and resizes it.

    Color becomes gray by ITU-R 601 luma; gray is repeated to three channels. An image of another size is cropped at its
    center to the aspect ratio of the result and resized with Pillow's BILINEAR filter, which is antialiased.

    Args:
      picture: the image.
      size: (height, width) of the result in pixels.
      channels: 1 for gray, 3 for RGB.

    Returns:
      uint8 (height, width, channels).
    """
    (height, width), mode = size, "L" if channels == 1 else "RGB"
    if picture.mode != mode:  # `convert` and `crop` would copy
        picture = picture.convert(mode)
    if picture.size != (width, height):
        columns, rows = picture.size
        across = max(1, min(columns, round(rows * width / height)))
        down = max(1, min(rows, round(columns * height / width)))
        left, top = (columns - across) // 2, (rows - down) // 2
        if (across, down) != picture.size:
            picture = picture.crop((left, top, left + across, top + down))
        picture = picture.resize((width, height), _pillow().Resampling.BILINEAR)
    return np.array(picture).reshape(height, width, channels)


def to_input(face: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """Fits a face to the input of a model; see `fit`.

    Args:
      face: uint8 (h, w), (h, w, 1) gray or (h, w, 3) BGR.
      spec: gives size and color order.

    Returns:
      uint8 (H, W, C); it may share memory with `face`.

    Raises:
      InputError: if Pillow is required and missing.
    """
    height, width, channels = spec.input_shape
    image = face.reshape(*face.shape[:2], -1)
    if image.shape == (height, width, channels):
        return image[..., ::-1] if spec.color_order == "rgb" else image
    if image.shape[2] == 1:
        picture = _pillow().fromarray(image[..., 0])
    else:
        picture = _pillow().frombuffer("RGB", face.shape[1::-1], np.ascontiguousarray(face), "raw", "BGR", 0, 1)
    return spec.from_rgb(fit(picture, spec.input_size, channels))


def _pillow() -> Any:
    """Returns the module PIL.Image."""
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError("resizing a face and converting it to gray require Pillow: pip install pillow") from error
    return Image
