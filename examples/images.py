#!/usr/bin/env python3
"""Filters a large image in strips, each in a worker: blur, edges, contrast. Needs numpy.

    python examples/images.py edges.pgm                      an image that is made here, 4096 x 4096 pixels
    python examples/images.py edges.pgm --image photo.pgm    any 8-bit PGM file, as `convert photo.jpg photo.pgm` makes

An array goes to a worker, and comes back, in shared memory: its pixels are not pickled. A strip brings the rows around
it along that the filter looks at, so that the result is that of the whole image. `memory_limit` and `retry` guard
against an image that is larger than expected; the bar on the terminal says how far it is.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from procbackground import Manager

Image = NDArray[np.float32]

RADIUS = 8  # of the blur, in pixels
MARGIN = RADIUS + 1  # rows around a strip that its result depends on: the blur's, and one for the edges


def blur(pixels: Image, radius: int, axis: int) -> Image:
    """Return the mean over `2 * radius + 1` pixels along an axis; at the border the outermost pixel repeats."""
    width = 2 * radius + 1
    padding = [(0, 0), (0, 0)]
    padding[axis] = (radius, radius)
    padded = np.pad(pixels, padding, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, width, axis=axis).mean(axis=-1, dtype=np.float32)


def edges(pixels: Image) -> Image:
    """Return how steep the blurred image is at each pixel."""
    smooth = blur(blur(pixels, RADIUS, axis=0), RADIUS, axis=1)
    down, right = np.gradient(smooth)
    return np.hypot(down, right).astype(np.float32)


def edges_of_strip(strip: Image, above: int, below: int) -> Image:
    """Return the edges of a strip, without the rows above and below that it brings along."""
    found = edges(strip)
    return found[above : len(found) - below]


def find_edges(manager: Manager, pixels: Image, strips: int) -> Image:
    """Return the edges of an image, found in so many strips."""
    bounds = np.linspace(0, len(pixels), strips + 1, dtype=int)
    above = [min(MARGIN, int(first)) for first in bounds[:-1]]
    below = [min(MARGIN, len(pixels) - int(last)) for last in bounds[1:]]
    parts = (pixels[i - a : j + b] for i, j, a, b in zip(bounds[:-1], bounds[1:], above, below, strict=True))
    # `buffersize`: only so many strips are in memory at once, beside the image and the result.
    found = manager.map(edges_of_strip, parts, above, below, chunksize=1, buffersize=8, progress=True)
    return np.concatenate(list(found))


def make_image(size: int) -> Image:
    """Return rings of growing frequency, with some noise."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    distance = np.hypot(axis[:, None], axis[None, :])
    noise = np.random.default_rng(1).standard_normal((size, size), dtype=np.float32)
    return np.asarray(128 + 100 * np.sin(60 * distance**2) + 8 * noise, dtype=np.float32)


def read_pgm(path: Path) -> Image:
    """Return the pixels of an 8-bit binary PGM file. Raises: `ValueError` for another file."""
    data = path.read_bytes()
    fields = data.split(None, 4)
    if len(fields) < 5 or fields[0] != b"P5" or fields[3] != b"255":
        raise ValueError(f"{path} is no 8-bit binary PGM file without comments")
    width, height = int(fields[1]), int(fields[2])
    return np.frombuffer(data[-width * height :], np.uint8).reshape(height, width).astype(np.float32)


def write_pgm(path: Path, pixels: Image) -> None:
    """Write an image, stretched to the whole range from black to white."""
    low, high = float(pixels.min()), float(pixels.max())
    grey = ((pixels - low) * (255 / max(high - low, 1e-6))).astype(np.uint8)
    path.write_bytes(b"P5 %d %d 255\n" % (grey.shape[1], grey.shape[0]) + grey.tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="PGM file with the edges")
    parser.add_argument("--image", type=Path, help="PGM file to read")
    parser.add_argument("--size", type=int, default=4096, help="of the image made here (default: %(default)s)")
    parser.add_argument("--strips", type=int, default=32, help="tasks (default: %(default)s)")
    options = parser.parse_args()
    pixels = make_image(options.size) if options.image is None else read_pgm(options.image)
    began_s = time.monotonic()
    with Manager(memory_limit="1GiB", retry=2, threads_per_task=1) as manager:
        found = find_edges(manager, pixels, min(options.strips, len(pixels)))
    write_pgm(options.output, found)
    height, width = pixels.shape
    print(f"{width} x {height} pixels in {time.monotonic() - began_s:.2f} s: {options.output}")


if __name__ == "__main__":
    main()
