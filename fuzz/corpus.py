"""Makes the corpus: small sound files of every kind, and some that are broken in ways worth knowing.

    python fuzz/corpus.py        # needs torch, safetensors, numpy, Pillow

`tensorflow/`, `parquet/gray.parquet`, `ramp.flac` and `torch/arrays*.pkl` are copies of fixtures, whose scripts stand beside
those; `found-*` are what fuzzing found.
"""

import io
import json
import struct
import wave
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

HERE = Path(__file__).parent / "corpus"


def put(kind, name, content):
    folder = HERE / kind
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def header(entries, data=b"", length=None):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def vit(dim=4, fill=None):
    shapes = {"cls_token": (1, 1, dim), "pos_embed": (1, 5, dim), "patch_embed.proj.weight": (dim, 3, 2, 2),
              "patch_embed.proj.bias": (dim,), "norm.weight": (dim,), "norm.bias": (dim,)}
    for name, shape in {"norm1": (dim,), "norm2": (dim,), "attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim),
                        "mlp.fc1": (dim, dim), "mlp.fc2": (dim, dim)}.items():
        shapes[f"blocks.0.{name}.weight"] = shape
        shapes[f"blocks.0.{name}.bias"] = shape[:1]
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    if fill is not None:
        tensors["blocks.0.attn.qkv.weight"][1, 2] = fill
    return tensors


def weights():
    a = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    put("safetensors", "types.safetensors", save({
        "f32": a, "f16": a.half(), "bf16": a.bfloat16(), "f64": a.double(), "i64": a.long(), "u8": a.byte(),
        "bool": a > 2, "scalar": torch.tensor(1.5), "empty": torch.zeros(0, 3)}, {"contrastive": "{\"version\":1}"}))
    two = {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    put("safetensors", "huge-header.safetensors", header(two, bytes(8), 1 << 62))
    put("safetensors", "overlap.safetensors",
        header(two | {"y": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12)))
    put("safetensors", "huge-shape.safetensors",
        header({"x": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 8]}}, bytes(8)))
    put("pretrained", "vit.safetensors", save(vit()))
    put("pretrained", "nan.safetensors", save(vit(fill=float("nan"))))
    integers = {name: tensor.long() for name, tensor in vit().items()}
    put("pretrained", "integers.safetensors", save(integers))
    put("settings", "timm.json", json.dumps({
        "architecture": "vit", "num_heads": 2, "pretrained_cfg": {
            "input_size": [3, 4, 4], "crop_pct": 0.9, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}
    }).encode())
    put("settings", "transformers.json", json.dumps({
        "model_type": "vit", "num_attention_heads": 2, "layer_norm_eps": 1e-6, "hidden_act": "gelu", "size": 4,
        "do_resize": True, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}).encode())
    put("settings", "deep.json", b"[" * 300)


def torch_files():
    shared = torch.arange(12, dtype=torch.float32)
    checkpoint = {"state_dict": {"a": shared[2:8].reshape(2, 3).t(), "b": shared, "c": torch.ones(1).half()},
                  "epoch": 3, "names": ["x", ("y", None, True, 1 << 70)]}
    for name, new in [("zip.pth", True), ("legacy.pth", False)]:
        file = io.BytesIO()
        torch.save(checkpoint, file, _use_new_zipfile_serialization=new)
        put("torch", name, file.getvalue())
    # A program that would call a shell where a pickle is run.
    put("torch", "system.pth", b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00trueq\x00\x85R.")


def images():
    pixels = np.random.default_rng(0).integers(0, 255, (6, 5, 3), dtype=np.uint8)
    for name, kind in [("rgb.png", "PNG"), ("rgb.jpg", "JPEG"), ("rgb.webp", "WEBP")]:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        put("image", name, file.getvalue())
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0]).save(file, "PNG")
    put("image", "gray.png", file.getvalue())
    bomb = bytearray(file.getvalue())
    bomb[16:24] = struct.pack(">II", 60000, 60000)
    put("image", "bomb.png", bytes(bomb))


def sounds():
    samples = (8000 * np.sin(np.arange(400) * 0.1)).astype("<i2")
    for name, rate, channels in [("mono.wav", 16000, 1), ("stereo.wav", 8000, 2)]:
        file = io.BytesIO()
        with wave.open(file, "wb") as out:
            out.setnchannels(channels)
            out.setsampwidth(2)
            out.setframerate(rate)
            out.writeframes(samples.tobytes())
        put("sound", name, file.getvalue())
    lines = ["NIST_1A", "   1024", "sample_rate -i 16000", "channel_count -i 1", "sample_n_bytes -i 2",
             "sample_byte_format -s2 01", "end_head", ""]
    put("sound", "nist.sph", "\n".join(lines).encode().ljust(1024) + samples.tobytes())


if __name__ == "__main__":
    weights()
    torch_files()
    images()
    sounds()
