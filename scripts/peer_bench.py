#!/usr/bin/env python3
"""The cases of `cargo xtask bench` with PyTorch, torchvision, lightly, faiss and scikit-learn.

    python scripts/peer_bench.py CASE --variant VARIANT [--threads N] [--repeats N] [--json]

Prints one JSON line, as `cargo xtask bench CASE --json` does: the same work on the same sizes. Networks have the
variants `eager` and `channels_last`, each with `+tuned` (large blocks are kept, huge pages) and with `bf16+` before
(autocast); others name a library.
"""
import argparse, contextlib, copy, json, math, os, statistics, subprocess, sys, time

TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "1000000000000", "MALLOC_TOP_PAD_": "268435456",
         "THP_MEM_ALLOC_ENABLE": "1"}
os.environ.setdefault("LIGHTLY_DID_VERSION_CHECK", "True")

def peak_mb():
    """Peak resident memory; of this process only, so workers of a loader are missing."""
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmHWM:")) / 1024

def measure(unit, repeats, items, shortest=0.15, **more):
    """Median wall time of unit(), which runs several times in a repeat if it is short."""
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")

    def run(times):
        start = time.perf_counter()
        for _ in range(times):
            unit()
        return time.perf_counter() - start
    once = min(run(1), run(1) if shortest else 9)
    times = max(1, math.ceil(shortest / max(once, 1e-7)))
    ms = sorted(run(times) / times * 1e3 for _ in range(repeats))
    at = lambda part: ms[round((len(ms) - 1) * part)]
    return dict(ms=at(0.5), spread=(at(0.75) - at(0.25)) / 2 / at(0.5), images_per_s=items / at(0.5) * 1e3,
                peak_rss_mb=peak_mb(), **more)

def torch_with(args):
    import torch
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    return torch

def resnet(depth, cifar):
    import torchvision
    from torch import nn
    net = getattr(torchvision.models, f"resnet{depth}")()
    net.fc = nn.Identity()
    if cifar:
        net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return net

def laid_out(args, *things):
    """Modules and images in the memory order of the variant."""
    import torch
    if "channels_last" not in args.variant:
        return things
    return [t.to(memory_format=torch.channels_last) for t in things]

def rounding(args):
    """What the variant computes forward passes and losses under."""
    import torch
    return torch.autocast("cpu", torch.bfloat16) if "bf16" in args.variant else contextlib.nullcontext()

def update(optimizer, loss):
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return float(loss.detach())

def sgd(*nets):
    import torch
    parameters = [p for net in nets for p in net.parameters()]
    return torch.optim.SGD(parameters, lr=0.06, momentum=0.9, weight_decay=5e-4)

def simclr(args, depth, width, size, batch):
    torch = torch_with(args)
    from lightly.loss import NTXentLoss
    from lightly.models.modules.heads import SimCLRProjectionHead
    net = torch.nn.Sequential(resnet(depth, size == 32), SimCLRProjectionHead(width, width, 128)).train()
    net, x = laid_out(args, net, torch.randn(2 * batch, 3, size, size))
    loss, optimizer = NTXentLoss(temperature=0.5), sgd(net)

    def step():
        with rounding(args):
            value = loss(*net(x).chunk(2))
        update(optimizer, value)
    return measure(step, args.repeats, 2 * batch, batch=batch)

def moco(args, batch=64):
    torch = torch_with(args)
    from lightly.loss import NTXentLoss
    from lightly.models.modules.heads import MoCoProjectionHead
    from lightly.models.utils import deactivate_requires_grad, update_momentum
    query = torch.nn.Sequential(resnet(18, True), MoCoProjectionHead(512, 512, 128))
    key = copy.deepcopy(query)
    deactivate_requires_grad(key)
    query, key, a, b = laid_out(args, query, key, torch.randn(batch, 3, 32, 32), torch.randn(batch, 3, 32, 32))
    loss, optimizer = NTXentLoss(temperature=0.1, memory_bank_size=(4096, 128)), sgd(query)

    def step():
        update_momentum(query, key, m=0.996)
        with rounding(args):
            q = query(a)
            with torch.no_grad():
                k = key(b)
            value = loss(q, k)
        update(optimizer, value)
    return measure(step, args.repeats, 2 * batch, batch=batch)

def embed(args, net, size, batch):
    torch = torch_with(args)
    net, x = laid_out(args, net().eval(), torch.randn(batch, 3, size, size))
    with torch.inference_mode(), rounding(args):
        return measure(lambda: net(x), args.repeats, batch, batch=batch)

def vit_small(drop_path=0.0):
    import timm
    return timm.create_model("vit_small_patch16_224", num_classes=0, dynamic_img_size=True, drop_path_rate=drop_path)

def dino(args, batch=4):
    torch = torch_with(args)
    from lightly.loss import DINOLoss
    from lightly.models.modules.heads import DINOProjectionHead
    from lightly.models.utils import deactivate_requires_grad, update_momentum
    student = torch.nn.ModuleList([vit_small(0.1), DINOProjectionHead(384, 2048, 256, 8192, freeze_last_layer=1)])
    teacher = torch.nn.ModuleList([vit_small(), DINOProjectionHead(384, 2048, 256, 8192)])
    teacher.load_state_dict(student.state_dict())
    deactivate_requires_grad(teacher)
    large, small = torch.randn(2 * batch, 3, 224, 224), torch.randn(4 * batch, 3, 96, 96)
    parameters = [p for p in student.parameters() if p.requires_grad]
    loss, optimizer = DINOLoss(output_dim=8192), torch.optim.AdamW(parameters, lr=5e-4, weight_decay=0.04)

    def step():
        update_momentum(student, teacher, m=0.996)
        with rounding(args):
            with torch.no_grad():
                t = teacher[1](teacher[0](large))
            s = student[1](torch.cat([student[0](large), student[0](small)]))
            value = loss(list(t.chunk(2)), list(s.chunk(6)), epoch=1)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 3.0)
        optimizer.step()
    return measure(step, args.repeats, 8 * batch, batch=batch)

def pictures():
    folder = os.environ["BENCH_PICTURES"]
    return folder, [os.path.join(folder, f"{i:04}.jpg") for i in range(200)]

def views(kind, size, strength):
    """From a file's path or pixels to two views, by one library from decoding on."""
    if kind == "lightly_pil":
        from lightly.transforms import SimCLRTransform
        from PIL import Image
        two = SimCLRTransform(input_size=size, cj_strength=strength)
        return lambda item: two(Image.open(item).convert("RGB") if isinstance(item, str) else Image.fromarray(item))
    import torch
    b, h, kernel = 0.8 * strength, 0.2 * strength, max(3, int(0.1 * size) | 1)
    if kind == "albumentations":
        import albumentations as A
        import cv2
        cv2.setNumThreads(0)  # the loader's workers are the threads
        one = A.Compose([
            A.RandomResizedCrop((size, size), scale=(0.08, 1.0)), A.HorizontalFlip(p=0.5),
            A.ColorJitter((1 - b, 1 + b), (1 - b, 1 + b), (1 - b, 1 + b), (-h, h), p=0.8), A.ToGray(p=0.2),
            A.GaussianBlur((kernel, kernel), (0.1, 2.0), p=0.5), A.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
        pixels = lambda item: cv2.cvtColor(cv2.imread(item), cv2.COLOR_BGR2RGB) if isinstance(item, str) else item
        view = lambda image: torch.from_numpy(one(image=image)["image"]).permute(2, 0, 1).contiguous()
        return lambda item: [view(image) for image in [pixels(item)] * 2]
    from torchvision.io import decode_jpeg, read_file
    from torchvision.transforms import v2
    one = v2.Compose([
        v2.RandomResizedCrop(size, scale=(0.08, 1.0), antialias=True), v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(b, b, b, h)], p=0.8), v2.RandomGrayscale(0.2),
        v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], p=0.5), v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
    read = lambda item: (decode_jpeg(read_file(item)) if isinstance(item, str)
                         else torch.from_numpy(item.copy()).permute(2, 0, 1).contiguous())
    return lambda item: [one(image) for image in [read(item)] * 2]

def augment(args, size, strength, batch):
    torch = torch_with(args)
    import numpy as np
    folder, source = pictures()
    if size == 32:
        source = np.fromfile(os.path.join(folder, "small.bin"), np.uint8).reshape(-1, 32, 32, 3)
    two = views(args.variant, size, strength)
    together = lambda items: torch.utils.data.default_collate([tuple(two(item)) for item in items])
    loader = torch.utils.data.DataLoader(source, batch_size=batch, shuffle=True, num_workers=2,
                                         persistent_workers=True, collate_fn=together)
    record = measure(lambda: [None for _ in loader], args.repeats, 2 * len(source), shortest=0, batch=batch)
    return dict(record, peak_rss_mb=None)  # the workers' memory is not in this process

def decode(args):
    torch = torch_with(args)
    torch.set_num_threads(1)
    data = [open(path, "rb").read() for path in pictures()[1]]
    if args.variant == "pil":
        import io
        from PIL import Image
        unit = lambda: [Image.open(io.BytesIO(d)).convert("RGB").load() for d in data]
    else:
        from torchvision.io import decode_jpeg
        files = [torch.frombuffer(bytearray(d), dtype=torch.uint8) for d in data]
        unit = lambda: [decode_jpeg(f) for f in files]
    return measure(unit, args.repeats, 200, batch=200)

def nt_xent(args, n):
    torch = torch_with(args)
    z, temperature, half = torch.randn(n, 128, requires_grad=True), 0.5, n // 2

    class Chunked(torch.autograd.Function):
        """Rows by the thousand; the backward pass makes each block anew, so memory grows with n."""
        @staticmethod
        def logits(u, i):
            s = (u[i:i + 1024] @ u.t()).div_(temperature)
            r = torch.arange(len(s))
            s[r, r + i] = -torch.inf
            return s

        @staticmethod
        def forward(ctx, u):
            lse = torch.cat([Chunked.logits(u, i).logsumexp(1) for i in range(0, n, 1024)])
            ctx.save_for_backward(u, lse)
            return (lse - (u * u.roll(half, 0)).sum(1) / temperature).mean()

        @staticmethod
        def backward(ctx, g):
            u, lse = ctx.saved_tensors
            du = -2 * u.roll(half, 0)
            for i in range(0, n, 1024):
                p = Chunked.logits(u, i).sub_(lse[i:i + 1024, None]).exp_()
                du[i:i + 1024] += p @ u
                du.addmm_(p.t(), u[i:i + 1024])
            return du * (g / (n * temperature))
    if args.variant == "lightly":
        from lightly.loss import NTXentLoss
        crit = NTXentLoss(temperature)
        loss = lambda: crit(z[:half], z[half:])
    else:
        loss = lambda: Chunked.apply(torch.nn.functional.normalize(z, dim=1))

    def unit():
        z.grad = None
        loss().backward()
    return measure(unit, args.repeats, n, batch=n)

def clouds(dim, spread):
    """50,000 and 10,000 points around ten centres."""
    import numpy as np
    random = np.random.default_rng(1)
    centres = random.standard_normal((10, dim)).astype(np.float32) * spread

    def draw(n):
        y = random.integers(0, 10, n)
        return centres[y] + random.standard_normal((n, dim)).astype(np.float32), y
    return draw(50_000) + draw(10_000)

def knn(args):
    torch = torch_with(args)
    import numpy as np
    x, y, queries, labels = clouds(128, 0.2)
    x, queries = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, queries))
    said = []
    if args.variant == "faiss":
        import faiss
        faiss.omp_set_num_threads(args.threads)
        index = faiss.IndexFlatIP(128)
        index.add(x)

        def unit():
            similarity, near = index.search(queries, 200)
            weight, near = np.exp(similarity / 0.1), y[near]
            said[:] = [np.stack([(weight * (near == c)).sum(1) for c in range(10)], 1).argmax(1)]
    else:
        from lightly.utils.benchmarking import knn_predict
        bank, targets, rows = torch.from_numpy(x).t().contiguous(), torch.from_numpy(y), torch.from_numpy(queries)

        def unit():
            votes = [knn_predict(part, bank, targets, 10, 200, 0.1)[:, 0] for part in rows.split(1000)]
            said[:] = [torch.cat(votes).numpy()]
    record = measure(unit, args.repeats, len(queries), batch=len(queries))
    return dict(record, accuracy=float((said[0] == labels).mean()))

def probe(args):
    from sklearn.linear_model import LogisticRegression
    x, y, test, labels = clouds(512, 0.09)
    found = {}

    def unit():
        fit = LogisticRegression(solver="lbfgs", max_iter=1000).fit(x, y)
        found.update(accuracy=float(fit.score(test, labels)), iterations=int(fit.n_iter_[0]))
    return dict(measure(unit, args.repeats, len(x), batch=len(x)), **found)

FIRST_STEP = """
import sys, time
sys.path.insert(0, sys.argv[2])
import torch, torchvision
import peer_bench as peers
torch.set_num_threads(int(sys.argv[1]))
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import SimCLRProjectionHead
head, loss = SimCLRProjectionHead(512, 512, 128), NTXentLoss(0.5)
net = torch.nn.Sequential(peers.resnet(18, True), head)
optimizer, x = peers.sgd(net), torch.randn(128, 3, 32, 32)
ready = time.time()
peers.update(optimizer, loss(*net(x).chunk(2)))
print(ready, time.time(), peers.peak_mb())
"""

def startup(args):
    here, whole, before = os.path.dirname(os.path.abspath(__file__)), [], []
    for turn in range(args.repeats + 1):
        start = time.time()
        command = [sys.executable, "-c", FIRST_STEP, str(args.threads), here]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        ready, end, memory = map(float, output.split())
        if turn:
            whole.append((end - start) * 1e3), before.append((ready - start) * 1e3)
    return dict(ms=statistics.median(whole), images_per_s=0.0, peak_rss_mb=memory, batch=64,
                to_first_step_ms=statistics.median(before))

CASES = {
    "simclr_r18_32": lambda a: simclr(a, 18, 512, 32, 64), "simclr_r50_224": lambda a: simclr(a, 50, 2048, 224, 8),
    "moco_r18_32": moco, "embed_r18_32": lambda a: embed(a, lambda: resnet(18, True), 32, 128),
    "dino_vits16_224": dino, "embed_vits16_224": lambda a: embed(a, vit_small, 224, 32),
    "embed_r50_224": lambda a: embed(a, lambda: resnet(50, False), 224, 32),
    "augment_cifar": lambda a: augment(a, 32, 0.5, 64), "augment_jpeg": lambda a: augment(a, 224, 1.0, 32),
    "decode_jpeg": decode, "knn": knn, "linear_probe": probe, "startup": startup,
    **{f"nt_xent_{n}": lambda a, n=n: nt_xent(a, n) for n in (512, 4096, 16384)},
}

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--variant", required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="the line is always JSON")
    args = parser.parse_args()
    wanted = {name: str(args.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    wanted.update(TUNED if "tuned" in args.variant else {})
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        # Allocators and thread pools read these when they are loaded.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})
    from importlib.metadata import version
    libraries = {"faiss": ["faiss-cpu"], "sklearn_lbfgs": ["scikit-learn"], "pil": ["pillow"],
                 "albumentations": ["albumentations", "torch"]}
    names = libraries.get(args.variant, ["torch", "torchvision", "lightly"])
    record = dict(case=args.case, variant=args.variant, threads=args.threads,
                  library=", ".join(f"{name} {version(name)}" for name in names))
    print(json.dumps({**record, **CASES[args.case](args)}))

if __name__ == "__main__":
    main()
