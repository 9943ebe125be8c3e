"""A part of an image: the same values as of the whole, without the rest being decoded."""

import io

import numpy as np
import pytest
import tifffile

from latent_ae.errors import BrokenImage
from latent_ae.io.rasters import Region, read_raster, read_raster_region
from tests.io.rasters.test_tiff import LAYOUTS, ramp, written

REGIONS = (Region(0, 0, 1, 1), Region(1, 2, 3, 4), Region(0, 0, 5, 7), Region(4, 6, 1, 1))
MORE = {
    **LAYOUTS,
    "grey in tiles": ((37, 45), {"tile": (16, 32)}),
    "5 planes in tiles": ((5, 37, 45), {"photometric": "minisblack", "planarconfig": "separate", "tile": (16, 16)}),
    "strips": ((37, 45, 3), {"photometric": "rgb", "rowsperstrip": 5}),
    "white as 0": ((37, 45), {"photometric": "miniswhite"}),
    "sideways": ((37, 45), {"extratags": [(274, "H", 1, 6, True)]}),
    "jpeg": ((40, 48, 3), {"photometric": "ycbcr", "tile": (16, 16), "compression": "jpeg"}),
}


@pytest.mark.parametrize("layout", MORE)
def test_a_part_of_a_tiff_is_that_part_of_the_whole(layout, tmp_path):
    shape, options = MORE[layout]
    compressions = (None, "zlib", "lzw") if "compression" not in options else (options.pop("compression"),)
    for compression in compressions:
        values = ramp(shape, "u1" if compression == "jpeg" else "u2")
        stream = written(values, compression=compression, byteorder=">", **options)
        whole = read_raster(stream).values
        height, width = whole.shape[:2]
        regions = [*REGIONS, Region(height - 3, width - 4, 3, 4), Region(1, 1, height - 2, width - 2)]
        (tmp_path / "file.tif").write_bytes(stream.getvalue())
        for region in regions:
            for source in (stream, tmp_path / "file.tif"):
                if (found := read_raster_region(source, region)) is None:
                    assert layout == "sideways"
                    continue
                got = found.values
                assert got.dtype == whole.dtype
                assert np.array_equal(got, region.of(whole))
                got[:] = 0


def test_only_what_it_lies_in_is_read():
    values = ramp((64, 64), "u2")
    data = bytearray(written(values, tile=(16, 16), compression="zlib").getvalue())
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        starts, counts = file.pages[0].dataoffsets, file.pages[0].databytecounts
    for number in set(range(16)) - {5, 6}:
        data[starts[number] : starts[number] + counts[number]] = bytes(counts[number])
    region = Region(20, 20, 8, 20)
    assert np.array_equal(read_raster_region(io.BytesIO(data), region).values[:, :, 0], values[20:28, 20:40])
    with pytest.raises(BrokenImage):
        read_raster_region(io.BytesIO(data), Region(0, 0, 20, 20))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(9, 11), (9, 11, 3), (3, 9, 11), (2, 9, 11, 3), (2, 3, 9, 11)])
def test_a_part_of_an_array(shape, order, tmp_path):
    np.save(tmp_path / "values.npy", np.asarray(ramp(shape, "i4"), order=order))
    file, page = tmp_path / "values.npy", int(len(shape) == 4)
    got = read_raster_region(file, Region(2, 3, 4, 5), page=page).values
    assert np.array_equal(got, Region(2, 3, 4, 5).of(read_raster(file, page=page).values))
    got[:] = 0
    assert read_raster_region(io.BytesIO(file.read_bytes()), Region(2, 3, 4, 5), page=page) is None
    for region in (Region(0, 0, 10, 1), Region(-1, 0, 1, 1), Region(0, 11, 1, 1), Region(0, 0, 0, 1)):
        with pytest.raises(BrokenImage, match="which does not lie in its 11x9 pixels"):
            read_raster_region(file, region)
