"""Compressed frames of DICOM, decoded by imagecodecs: a plugin of pydicom.

The decoders that pydicom knows by itself leave formats out, or end the process on a damaged frame (GDCM). This one also
checks the size in a frame's own header against that of the file before anything is allocated, and which decoder reads a
file does not depend on what else is installed.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import DecodeRunner

_LABEL = "imagecodecs"


def _jpeg(data: bytes, out: NDArray[Any]) -> None:
    import imagecodecs

    # The same colour space on both sides: whether it is RGB or YCbCr, the file says, and pydicom converts.
    space = None if out.ndim == 2 else "YCBCR"
    imagecodecs.jpeg8_decode(data, colorspace=space, outcolorspace=space, out=out)


def _jpeg_ls(data: bytes, out: NDArray[Any]) -> None:
    import imagecodecs

    imagecodecs.jpegls_decode(data, out=out)


def _jpeg_2000(data: bytes, out: NDArray[Any]) -> None:
    import imagecodecs

    imagecodecs.jpeg2k_decode(data, out=out)


_DECODERS: dict[str, Callable[[bytes, NDArray[Any]], None]] = {
    **dict.fromkeys((uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1), _jpeg),
    **dict.fromkeys((uid.JPEGLSLossless, uid.JPEGLSNearLossless), _jpeg_ls),
    **dict.fromkeys((uid.JPEG2000Lossless, uid.JPEG2000), _jpeg_2000),
    **dict.fromkeys((uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K), _jpeg_2000),
}
DECODER_DEPENDENCIES = dict.fromkeys(_DECODERS, (_LABEL,))


def is_available(syntax: str) -> bool:
    return syntax in _DECODERS and find_spec("imagecodecs") is not None


def decode_frame(data: bytes, runner: DecodeRunner) -> bytearray:
    """The values of a frame, interleaved. Raises ValueError if its own header states another size than the file."""
    shape = (runner.rows, runner.columns, runner.samples_per_pixel)[: 2 + (runner.samples_per_pixel > 1)]
    for size in (1, 2, 4):
        values = np.empty(shape, f"u{size}")
        try:
            _DECODERS[runner.transfer_syntax](bytes(data), values)
        except ValueError as error:  # before it decodes
            if "dtype" in str(error) and size < 4:
                continue
            raise
        break
    runner.set_option("bits_allocated", 8 * values.itemsize)
    runner.set_option("planar_configuration", 0)
    if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):  # JPEG 2000 undoes these itself
        runner.set_option("photometric_interpretation", "RGB")
    return bytearray(values)


def plugin_of(syntax: str) -> str:
    """The decoder of pydicom that reads frames of a transfer syntax."""
    if syntax == uid.RLELossless:
        return "pydicom"
    return "pillow" if syntax == uid.JPEGBaseline8Bit else _LABEL if syntax in _DECODERS else ""


for _syntax in _DECODERS:
    get_decoder(uid.UID(_syntax)).add_plugin(_LABEL, (__name__, decode_frame.__name__))
