#!/usr/bin/env python3
"""Parquet files of aligned pictures, and of clips, to the folders that `cargo xtask reproduce cmc-views --data DIR` and
`cmc-video --data DIR` read.

    pip install pyarrow Pillow
    python scripts/cmc_real.py pictures FILE.parquet DIR    # DIR/train/rgb/NAME.png, DIR/test/depth/NAME.png, ...
    python scripts/cmc_real.py clips FILE.parquet DIR       # DIR/train/CLASS/CLIP/FRAME.png, ...

Columns of pictures: `split`, `rgb`, `depth`, `label` and perhaps `normal`, each an encoded image. Columns of clips:
`split`, `label`, `frame_height` and `strip`, one encoded image with the frames below each other. A split `val` becomes
`test`.
"""
import argparse, io, pathlib
import pyarrow.parquet
from PIL import Image

def image(value):
    """An encoded image, or the struct with its bytes."""
    return Image.open(io.BytesIO(value["bytes"] if isinstance(value, dict) else value))

def save(picture, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)

def pictures(row, number, folder):
    for part in ("rgb", "depth", "normal", "label"):
        if row.get(part) is not None:
            save(image(row[part]), folder / part / f"{number:05d}.png")

def clips(row, number, folder):
    strip, height = image(row["strip"]), row["frame_height"]
    for frame, top in enumerate(range(0, strip.height, height)):
        box = (0, top, strip.width, top + height)
        save(strip.crop(box), folder / f"{row['label']:02d}" / f"{number:05d}" / f"{frame:03d}.png")

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["pictures", "clips"])
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    write = pictures if args.kind == "pictures" else clips
    for number, row in enumerate(pyarrow.parquet.read_table(args.file).to_pylist()):
        write(row, number, args.out / ("train" if row["split"] == "train" else "test"))

if __name__ == "__main__":
    main()
