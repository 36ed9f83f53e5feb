"""Writes tests/io/pictures: pictures in every format that decode_image reads, each with its pixels as a PPM file.

    pip install pillow numpy && python tests/reference/images.py

The pixels are Pillow's, except where Pillow cuts 16-bit channels to 8: there they are computed here. The files
resize_*.ppm are Pillow's Image.resize(LANCZOS) of resize.ppm.
"""

import pathlib
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps

OUT = pathlib.Path(__file__).parent.parent / "io" / "pictures"
WIDTH, HEIGHT = 19, 13


def scene(width=WIDTH, height=HEIGHT):
    """Slopes of all three colours, a sharp edge and a white spot, so that every turn and mirror image differs."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x * y * 7) % 256], -1).astype(np.uint8)
    rgb[: height // 3, : width // 4] = (200, 30, 30)
    rgb[-3:, -2:] = 255
    return rgb


def write_ppm(name, rgb):
    rgb = np.ascontiguousarray(rgb, np.uint8)
    (OUT / f"{name}.ppm").write_bytes(b"P6 %d %d 255\n" % (rgb.shape[1], rgb.shape[0]) + rgb.tobytes())


def over_white(rgba):
    """Rounded to the nearest in exact integers."""
    rgba = rgba.astype(np.int64)
    alpha = rgba[..., 3:]
    return (rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255


def expected(path):
    """What Pillow reads, upright, over white."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return over_white(np.asarray(image.convert("RGBA")))
    return np.asarray(image.convert("RGB"))


def save(name, image, **options):
    image.save(OUT / name, **options)
    write_ppm(name, expected(OUT / name))


def png(name, color_type, depth, rows, pixels, interlace=0):
    """A PNG written by hand, without filters, for what Pillow does not write."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, color_type, 0, 0, interlace)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    (OUT / name).write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
                             + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b""))
    write_ppm(name, pixels)


def interlaced(name, rgb):
    adam7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    png(name, 2, 8, [row for x, y, dx, dy in adam7 for row in rgb[y::dy, x::dx]], rgb, interlace=1)
    assert (np.asarray(Image.open(OUT / name)) == rgb).all()


def exif(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def to8(samples16):
    """16 bits to 8, rounded: 65535 is 255."""
    return (samples16.astype(np.int64) * 255 + 32767) // 65535


def pngs(rgb):
    image = Image.fromarray(rgb)
    save("rgb.png", image)
    save("grey.png", image.convert("L"))
    save("bits1.png", image.convert("1"))
    save("grey_alpha.png", Image.merge("LA", [image.convert("L"), image.getchannel(0)]))
    save("alpha.png", Image.merge("RGBA", [*image.split(), image.getchannel(2)]))
    palette = image.quantize(12)
    save("palette.png", palette)
    save("palette_clear.png", palette, transparency=bytes([255, 0, 128, 30, 200]))
    save("rgb_clear.png", image, transparency=(200, 30, 30))
    interlaced("interlaced.png", rgb)

    wide = (rgb.astype(np.uint32) * 256 + np.roll(rgb, 3, 1)).astype(">u2")
    png("rgb16.png", 2, 16, wide, to8(wide))
    grey = wide[..., 2]
    png("grey16.png", 0, 16, grey, np.repeat(to8(grey)[..., None], 3, -1))
    rgba = np.concatenate([wide, wide[..., 1:2]], -1).astype(">u2")
    png("alpha16.png", 6, 16, rgba, over_white(to8(rgba)))


def jpegs(rgb):
    image = Image.fromarray(rgb)
    save("rgb.jpg", image, quality=90, subsampling=0)
    save("halved_colour.jpg", image, quality=80, subsampling=2)
    save("progressive.jpg", image, quality=80, progressive=True)
    save("grey.jpg", image.convert("L"), quality=85)
    save("cmyk.jpg", image.convert("CMYK"), quality=90)
    for orientation in range(1, 9):
        save(f"turned{orientation}.jpg", image, quality=90, exif=exif(orientation))


def others(rgb):
    image = Image.fromarray(rgb)
    save("lossy.webp", image, quality=85)
    save("lossless.webp", image, lossless=True)
    save("alpha.webp", Image.merge("RGBA", [*image.split(), image.getchannel(2)]), lossless=True, exact=True)
    save("lossy_alpha.webp", Image.merge("RGBA", [*image.split(), image.getchannel(0)]), quality=85)
    save("turned6.webp", image, lossless=True, exif=exif(6))
    save("turned7.png", image, exif=exif(7))


def resizes():
    rgb = scene(50, 37)
    rgb[20:30, 20:40] = np.random.default_rng(7).integers(0, 256, (10, 20, 3))
    write_ppm("resize", rgb)
    for width, height in [(25, 18), (16, 37), (50, 11), (83, 61), (7, 90), (1, 1), (50, 64)]:
        write_ppm(f"resize_{width}x{height}", np.asarray(Image.fromarray(rgb).resize((width, height), Image.LANCZOS)))


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    pngs(scene())
    jpegs(scene())
    others(scene())
    resizes()
