"""Reading images as numbers: ours against each format's own library. Prints one JSON line with their ratios.

    python benchmarks/read_numbers.py --side 512 --files 20

Both sides read the same files one after another on one thread, and give the same values: grey [H, W, 1] or colour
[H, W, 3], of DICOM after slope and intercept. They take turns, file by file, and processor
time counts. Progress goes to stderr.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import tifffile
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import rounded
from latent_ae.io.rasters import read_raster

Values = NDArray[Any]


def write_tiff(path: Path, values: Values, **options: Any) -> None:
    tifffile.imwrite(path, values, **options)


def write_dicom(path: Path, values: Values) -> None:
    """A CT slice with the header elements that scanners write."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = CTImageStorage, generate_uid(), "CT"
    ds.PatientName, ds.StudyDate, ds.ImageType = "A^B", "20200101", ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.PixelSpacing, ds.SliceThickness, ds.ImagePositionPatient = [0.5, 0.5], 1.0, [0.0, 0.0, 0.0]
    ds.Rows, ds.Columns = values.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
    ds.WindowCenter, ds.WindowWidth = 40, 400
    ds.PixelData = (values & 0xFFF).tobytes()
    ds["PixelData"].VR = "OW"
    ds.save_as(path, enforce_file_format=True)


def read_dicom(path: Path) -> Values:
    ds = pydicom.dcmread(path)
    return np.asarray(apply_modality_lut(ds.pixel_array, ds))


def read_tiff(path: Path) -> Values:
    return np.asarray(tifffile.imread(path, maxworkers=1))


CASES: dict[str, tuple[int, Callable[[Path, Values], None], Callable[[Path], Values]]] = {
    "TIFF, 16-bit grey": (1, write_tiff, read_tiff),
    "TIFF, 16-bit grey, deflate": (1, lambda path, values: write_tiff(path, values, compression="zlib"), read_tiff),
    "TIFF, 16-bit RGB in planes": (
        3,
        lambda path, values: write_tiff(path, values.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
        lambda path: np.moveaxis(read_tiff(path), 0, -1),
    ),
    "DICOM, CT": (1, write_dicom, read_dicom),
}


def seconds(read: Callable[[Path], object], file: Path) -> float:
    """Of processor time: what other programs take of a busy machine does not count."""
    start = time.process_time()
    read(file)
    return time.process_time() - start


def compare(name: str, folder: Path, side: int, count: int, turns: int) -> dict[str, float]:
    channels, write, library = CASES[name]
    generator = np.random.default_rng(0)
    files = [folder / f"{number}" for number in range(count)]
    for file in files:
        values = generator.integers(0, 65536, (side, side, channels), np.uint16)
        write(file, values[:, :, 0] if channels == 1 else values)
    expected = library(files[0])
    assert np.array_equal(read_raster(files[0]).values, expected.reshape(*expected.shape[:2], -1))
    ours, theirs = [0.0] * turns, [0.0] * turns
    for turn in range(turns):
        for file in files:
            theirs[turn] += seconds(library, file)
            ours[turn] += seconds(read_raster, file)
    ratio = statistics.median(their / our for our, their in zip(ours, theirs, strict=True))
    best = {"ours": rounded(count / min(ours)), "library": rounded(count / min(theirs))}
    return best | {"ratio": rounded(ratio)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=512, help="pixels (default: 512)")
    parser.add_argument("--files", type=int, default=20, help="of each format (default: 20)")
    parser.add_argument("--turns", type=int, default=7, help="of each side (default: 7)")
    options = parser.parse_args(arguments)
    result: dict[str, Any] = {"benchmark": "read_numbers", "side": options.side, "files": options.files}
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            result[name] = compare(name, Path(folder), options.side, options.files, options.turns)
        print(f"{name}: {result[name]['ratio']:.2f} of the library's files a second", file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
