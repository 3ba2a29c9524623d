"""Holds `cargo xtask embed` against timm and torchvision: the same weights, the same pictures, the same embeddings; and
`cargo xtask push`: what it writes loads in `timm.create_model(...).load_state_dict` and gives them again.

    python scripts/check_embeddings.py [PROGRAM]

PROGRAM is the built xtask (target/debug/xtask). Needs timm, torchvision, safetensors, Pillow. Weights are random.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config

PROGRAM = Path(sys.argv[1] if len(sys.argv) > 1 else "target/debug/xtask").resolve()
NAMES = ["vit_tiny_patch16_224", "vit_small_patch16_224.dino", "resnet18", "resnet50"]


def pictures(folder):
    """Smooth pictures of several sizes, some larger and some smaller than what a network takes."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, (width, height) in enumerate([(320, 240), (240, 400), (224, 224), (150, 180)]):
        coarse = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height), Image.BICUBIC).save(folder / f"{i}.png")


def embeddings(weights, data, out):
    call = [PROGRAM, "embed", "--weights", weights, "--data", data, "--out", out]
    subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
    with safe_open(out, "pt") as file:
        return file.get_tensor("embeddings")


def ours(folder, place, transform, model, what):
    mine = embeddings(place, folder / "pictures", folder / "x.safetensors")
    files = sorted((folder / "pictures").iterdir())
    inputs = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
    with torch.no_grad():
        theirs = model(inputs)
    largest = theirs.abs().max().item()
    error = (mine - theirs).abs().max().item()
    assert mine.shape == theirs.shape and error <= 1e-4 * largest, (what, error, largest)
    print(f"{what:<44} {tuple(mine.shape)}  {error / largest:.1e} of the largest")


def check(name, folder):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        for buffer_name, buffer in model.named_buffers():
            if "running" in buffer_name:
                buffer.add_(0.2 * torch.rand_like(buffer))
    config = resolve_data_config({}, model=model)
    place = folder / "model"
    place.mkdir()
    save_file(model.state_dict(), place / "model.safetensors")
    (place / "config.json").write_text(json.dumps({"architecture": name, "pretrained_cfg": {
        key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}}))
    ours(folder, place, create_transform(**config, is_training=False), model, f"{name} of timm")
    if not name.startswith("resnet"):
        return
    # As a file of torchvision's, converted and written by `push`.
    torch.save({"state_dict": model.state_dict()}, folder / "x.pth")
    call = [PROGRAM, "convert", folder / "x.pth", "--method", "torchvision", "--out", folder / "converted"]
    subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
    call = [PROGRAM, "push", "--weights", folder / "converted", "--folder", folder / "pushed", "--licence", "MIT"]
    subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
    again = timm.create_model(name, num_classes=0).eval()
    state = load_file(folder / "pushed/encoder.safetensors")
    missing, unexpected = again.load_state_dict(state, strict=False)
    assert not unexpected and all(n.endswith("num_batches_tracked") for n in missing), (missing, unexpected)
    steps = torchvision.transforms
    transform = steps.Compose([
        steps.Resize(256), steps.CenterCrop(224), steps.ToTensor(),
        steps.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
    ours(folder, folder / "pushed", transform, again, f"{name} of torchvision, pushed")


for name in NAMES:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pictures(folder / "pictures")
        check(name, folder)
