"""DICOM by pydicom: each frame is an image.

Values are those of the modality: the slope and intercept, or the table, of the file are applied, and its display window
is not. MONOCHROME1, in which the lowest value is white, is inverted within the stored bits. Palettes are applied, and
YBR becomes RGB.
"""

from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from latent_ae.errors import BrokenImage
from latent_ae.io.rasters.raster import PageHeader, Raster, RasterFile, refuse_axis, rescaled

_SHARED, _PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
_META = 132
"""where the first elements, which say how the others are stored, start"""
_DEFLATED = "1.2.840.10008.1.2.1.99"
_UNSPECIFIED = "US"
_COLORS = {
    "MONOCHROME1": 1,
    "MONOCHROME2": 1,
    "PALETTE COLOR": 1,
    "RGB": 3,
    "YBR_FULL": 3,
    "YBR_FULL_422": 3,
} | dict.fromkeys(("YBR_ICT", "YBR_RCT"), 3)
"""samples of a pixel by the photometric interpretation"""


class DicomFile(RasterFile):
    suffixes = (".dcm", ".dicom", ".ima")
    extra = "dicom"

    @staticmethod
    def starts(head: bytes) -> bool:
        return head[128:132] == b"DICM"

    def __init__(self, stream: BinaryIO, axis: int | None, *, limited: bool) -> None:
        import pydicom

        refuse_axis(axis, "a DICOM file")
        self._stream = stream
        if limited:  # before the rest is unpacked, whose size nothing tells
            stream.seek(_META)
            _refuse_deflated(
                pydicom.filereader.read_dataset(stream, False, True, stop_when=lambda tag, *_: tag.group > 2)
            )
            stream.seek(0)
        tags: Any = pydicom.dcmread(stream, stop_before_pixels=True)
        _refuse_deflated(tags.file_meta)
        self._pixels = stream.tell()
        if "Rows" not in tags or "Columns" not in tags:
            raise BrokenImage("it is a DICOM file without an image")
        colors = str(tags.get("PhotometricInterpretation", ""))
        if colors not in _COLORS or _COLORS[colors] != int(tags.get("SamplesPerPixel", 1)):
            raise BrokenImage(f"its colours are {colors} of {tags.get('SamplesPerPixel')} samples, which is not read")
        self._tags, self._colors = tags, colors
        self.pages = int(tags.get("NumberOfFrames") or 1)

    def header(self, page: int) -> PageHeader:
        bits = int(self._tags.BitsAllocated)
        channels = _COLORS[self._colors]
        if self._colors == "PALETTE COLOR":
            channels = 4 if any("Alpha" in name for name in self._tags.dir("PaletteColorLookupTable")) else 3
        return PageHeader(int(self._tags.Rows), int(self._tags.Columns), channels, np.dtype(f"u{max(1, bits // 8)}"))

    def read(self, page: int) -> Raster:
        from pydicom.pixels import apply_color_lut, apply_modality_lut

        values = self._stored(page)
        if self._colors == "PALETTE COLOR":
            return Raster(apply_color_lut(values, self._tags))
        if values.ndim == 3:
            return Raster(values)
        white_is_low = self._colors == "MONOCHROME1"
        if white_is_low and values.dtype.kind == "f":
            raise BrokenImage("it says that the lowest of its floats is white, and not what the highest is")
        if self._tags.get("ModalityLUTSequence"):
            values = apply_modality_lut(values, self._tags)
            values = np.iinfo(values.dtype).max - values if white_is_low else values
            return Raster(values[:, :, None])
        ends = self._stored_ends(values)
        values = _inverted(values, *ends) if white_is_low else values
        scale = self._scale(page)
        slope = float(scale.get("RescaleSlope", self._tags.get("DoseGridScaling", 1)))
        intercept = float(scale.get("RescaleIntercept", 0))
        if (slope, intercept) != (1, 0):
            values = rescaled(values, slope, intercept, ends)
        return Raster(values[:, :, None], "" if white_is_low else self._unit(scale))

    def _stored(self, page: int) -> NDArray[Any]:
        """The values of a frame, [H, W] or [H, W, 3], of which pydicom only makes RGB of YBR."""
        from pydicom.filereader import read_dataset
        from pydicom.pixels import pixel_array

        from latent_ae.io.rasters.dicom_frames import plugin_of

        source: Any = self._stream
        try:
            if self.pages > 1:
                source.seek(0)  # whose other frames are not read
            else:
                source.seek(self._pixels)
                self._tags.update(read_dataset(source, *self._tags.original_encoding))
                source = self._tags
            plugin = plugin_of(self._tags.file_meta.TransferSyntaxUID)
            return np.asarray(pixel_array(source, index=page, decoding_plugin=plugin))
        except RuntimeError as error:
            if "missing dependencies" in str(error):
                raise ModuleNotFoundError(str(error), name="imagecodecs") from error
            raise

    def _scale(self, page: int) -> Any:
        """The part of the header with the slope and intercept of a frame."""
        for name, place in ((_PER_FRAME, page), (_SHARED, 0)):
            groups = self._tags.get(name) or ()
            scales = groups[place].get("PixelValueTransformationSequence") if place < len(groups) else None
            if scales:
                return scales[0]
        return self._tags

    def _stored_ends(self, values: NDArray[Any]) -> tuple[int, int]:
        """The lowest and highest value that the stored bits hold, or the type if there are values beyond."""
        if values.dtype.kind == "f":
            return 0, 0
        bits, signed = int(self._tags.BitsStored), int(self._tags.get("PixelRepresentation", 0)) == 1
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        if low <= int(values.min()) and int(values.max()) <= high:
            return low, high
        return int(np.iinfo(values.dtype).min), int(np.iinfo(values.dtype).max)

    def _unit(self, scale: Any) -> str:
        for stated in ("Units", "DoseUnits"):  # of PET, of radiation therapy
            if stated in self._tags:
                return str(self._tags[stated].value)
        unit = str(
            scale.get("RescaleType") or ("HU" if self._tags.get("Modality") == "CT" and "RescaleSlope" in scale else "")
        )
        return "" if unit == _UNSPECIFIED else unit


def _refuse_deflated(meta: Any) -> None:
    if meta.get("TransferSyntaxUID") == _DEFLATED:
        raise BrokenImage("it is compressed as a whole (deflated): save it without that")


def _inverted(values: NDArray[Any], low: int, high: int) -> NDArray[Any]:
    """With the highest stored value as the lowest: the sum of both, -1 or `high`, is in the type of the values."""
    inverted: NDArray[Any] = values.dtype.type(low + high) - values
    return inverted
