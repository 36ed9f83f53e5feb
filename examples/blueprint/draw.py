#!/usr/bin/env python3
"""Draws the example's training pictures: 24 emoji as white edges on blue, each with its caption.

The pictures are in the repository, so you only need this to change them. On Debian 12:

    apt install python3-pil fonts-noto-color-emoji unicode-cldr-core
    python3 examples/blueprint/draw.py examples/blueprint           # the blueprints
    python3 examples/blueprint/draw.py tests/data/plain --plain     # the same objects in colour on white

The captions use the names that eri-tiny was trained with (Unicode CLDR, cleaned; `--names` lists all 1,215).
"""
import argparse
import re
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image, ImageChops, ImageDraw, ImageFont

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
NAMES = "/usr/share/unicode/cldr/common/annotations/en.xml"

OBJECTS = [
    "lion", "bear", "dog face", "frog", "turtle", "penguin",
    "owl", "octopus", "butterfly", "unicorn", "sunflower", "mushroom",
    "tomato", "lemon", "watermelon", "doughnut", "ice cream", "robot",
    "alarm clock", "bell", "umbrella", "bus", "castle", "skull",
]
FORMATS = ["png", "png", "png", "png", "jpg", "webp"]   # a mixed folder, as real ones are

PICTURE = 128       # pixels, the size eri-tiny knows
OBJECT = 115        # 0.9 of it
BORDER = 4          # drawn around the picture and cut off again: see blueprint()
WHITE = (255, 255, 255)
BLUE = (24, 58, 150)

UNWANTED = re.compile("button|thirty|arrow|skin tone|hair$|keycap|mark|regional|information|circled|squared|geometric|input"
                      "|symbol|zodiac")


def clean(name):
    name = re.sub("[\"'‘’“”]", "", name.lower())
    return " ".join(re.sub("[:-]", " ", name).split())


def unwanted(point):
    """Letters, skin tones, squared words and zodiac signs: not pictures of a thing."""
    ranges = [(0x1F1E6, 0x1F1FF), (0x1F3FB, 0x1F3FF), (0x1F170, 0x1F251), (0x2648, 0x2653)]
    return point < 0x203D or any(low <= point <= high for low, high in ranges)


def glyph(font, character):
    """The font's bitmap, centred on a transparent square."""
    left, top, right, bottom = font.getbbox(character)
    side = max(right - left, bottom - top)
    picture = Image.new("RGBA", (side, side))
    at = ((side - right - left) // 2, (side - bottom - top) // 2)
    ImageDraw.Draw(picture).text(at, character, font=font, embedded_color=True)
    return picture


def vocabulary(font):
    """name -> character, for all that eri-tiny was trained on."""
    missing = glyph(font, chr(0x10FFF0)).tobytes()
    found = {}
    for entry in ElementTree.parse(NAMES).iter("annotation"):
        character = entry.get("cp")
        if entry.get("type") != "tts" or len(character) != 1 or unwanted(ord(character)):
            continue
        name = clean(entry.text)
        picture = None if UNWANTED.search(name) else glyph(font, character)
        if picture and picture.getbbox() and picture.tobytes() != missing:
            found[name] = character
    return found


def plain(object_, border=0):
    """In colour, on white."""
    side = PICTURE + 2 * border
    picture = Image.new("RGB", (side, side), WHITE)
    small = object_.resize((OBJECT, OBJECT), Image.Resampling.LANCZOS)   # Pillow premultiplies RGBA for this
    picture.paste(small, ((side - OBJECT) // 2,) * 2, small)
    return picture


def blueprint(object_):
    """White edges on blue.

    An edge is the largest difference of a pixel's colour to its four neighbours, times 5, made a pixel wider: about 4 pixels
    in all, since thinner lines do not survive eri-tiny's VAE. The border keeps the frame of the picture clean, because a bright
    line there would be learnt faithfully.
    """
    picture = plain(object_, BORDER)
    edges = Image.new("L", picture.size)
    for dx, dy in [(1, 0), (-1, 0), (0, 1), (0, -1)]:
        for channel in ImageChops.difference(picture, ImageChops.offset(picture, dx, dy)).split():
            edges = ImageChops.lighter(edges, channel)
    edges = edges.point(lambda value: min(255, value * 5))
    edges = ImageChops.lighter(edges, ImageChops.offset(edges, 1, 0))
    edges = ImageChops.lighter(edges, ImageChops.offset(edges, 0, 1))
    drawn = Image.composite(Image.new("RGB", picture.size, WHITE), Image.new("RGB", picture.size, BLUE), edges)
    return drawn.crop((BORDER, BORDER, BORDER + PICTURE, BORDER + PICTURE))


def save(picture, path):
    options = {"png": {"optimize": True}, "jpg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True, "quality": 100}}
    picture.save(path, **options[path.suffix[1:]])


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, nargs="?")
    arguments.add_argument("--plain", action="store_true", help="in colour on white, captions without a style, PNG only")
    arguments.add_argument("--names", action="store_true", help="print every name that eri-tiny knows")
    chosen = arguments.parse_args()

    font = ImageFont.truetype(FONT, 109)   # the one size of its bitmaps
    known = vocabulary(font)
    if chosen.names:
        print("\n".join(sorted(known)))
        return
    if chosen.folder is None:
        arguments.error("name a folder for the pictures")

    chosen.folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(OBJECTS):
        object_ = glyph(font, known[name])
        stem = chosen.folder / name.replace(" ", "-")
        if chosen.plain:
            save(plain(object_), stem.with_suffix(".png"))
            caption = name
        else:
            save(blueprint(object_), stem.with_suffix("." + FORMATS[index % len(FORMATS)]))
            article = "an" if re.match("[aeio]|um", name) else "a"   # an umbrella, but a unicorn
            caption = f"blueprint of {article} {name}"
        stem.with_suffix(".txt").write_text(caption + "\n")


if __name__ == "__main__":
    main()
