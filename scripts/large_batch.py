#!/usr/bin/env python3
"""SimCLR steps of large batches: ours and PyTorch's in turns, for the table of docs/ranks.md.

    python scripts/large_batch.py --ours target/debug/xtask [--threads N] [--rounds N]   # both sides, as a table
    python scripts/large_batch.py --batch 4096 --chunk 64 [--threads N]                  # one step of PyTorch, as JSON

ResNet-18 for 32 x 32 pixels, head 512-512-128, NT-Xent, SGD with momentum, on noise that is in memory already: forward,
backward and update of both views. With --chunk, gradient caching (Gao et al. 2021) in plain PyTorch. Every measurement is
a process of its own; memory is its peak as the system counts it.
"""
import argparse, json, os, resource, statistics, subprocess, sys, time

from peer_bench import resnet, sgd

# Batch, chunk and how many steps are measured behind the first, whose memory is new.
CASES = [(256, None, 3), (512, None, 2), (4096, 64, 1)]

def network(torch):
    head = torch.nn.Sequential(torch.nn.Linear(512, 512, bias=False), torch.nn.BatchNorm1d(512), torch.nn.ReLU(),
                               torch.nn.Linear(512, 128, bias=False), torch.nn.BatchNorm1d(128))
    return torch.nn.Sequential(resnet(18, True), head).train().to(memory_format=torch.channels_last)

def nt_xent(torch, z1, z2, temperature=0.5):
    z = torch.nn.functional.normalize(torch.cat([z1, z2]), dim=1)
    logits = z @ z.T / temperature
    logits.fill_diagonal_(float("-inf"))
    n = len(z1)
    positive = (torch.arange(2 * n) + n) % (2 * n)
    return torch.nn.functional.cross_entropy(logits, positive)

def at_once(torch, net, x1, x2):
    z1, z2 = net(torch.cat([x1, x2])).chunk(2)
    nt_xent(torch, z1, z2).backward()

def in_chunks(torch, net, x1, x2, chunk):
    """Embeddings without a graph, their gradients, and each chunk again with its share of them."""
    parts = list(zip(x1.split(chunk), x2.split(chunk)))
    with torch.no_grad():
        found = [net(torch.cat(part)).chunk(2) for part in parts]
    z1, z2 = (torch.cat(view).requires_grad_() for view in zip(*found))
    nt_xent(torch, z1, z2).backward()
    norms = [m for m in net.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.momentum = 0.0  # the second pass only repeats the first
    for part, g1, g2 in zip(parts, z1.grad.split(chunk), z2.grad.split(chunk)):
        net(torch.cat(part)).backward(torch.cat([g1, g2]))
    for m, momentum in zip(norms, momenta):
        m.momentum = momentum

def step_of_torch(args):
    import torch
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    net = network(torch)
    optimizer = sgd(net)
    x1, x2 = (torch.randn(args.batch, 3, 32, 32).to(memory_format=torch.channels_last) for _ in range(2))
    seconds = []
    for _ in range(1 + args.steps):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        if args.chunk:
            in_chunks(torch, net, x1, x2, args.chunk)
        else:
            at_once(torch, net, x1, x2)
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(dict(batch=args.batch, chunk=args.chunk, seconds=statistics.median(seconds[1:]), peak_mb=peak,
                          library=f"torch {torch.__version__}")))

def run(command, threads):
    env = {**os.environ, **{f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS")}}
    return json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.splitlines()[-1])

def compare(args):
    rows = []
    for batch, chunk, steps in CASES:
        sides = {"ours": [], "torch": []}
        for _ in range(args.rounds):
            case = "simclr_cached_r18_32" if chunk else "simclr_r18_32"
            ours = run([args.ours, "--threads", str(args.threads), "bench", case, "--json", "--batch", str(batch),
                        "--repeats", str(steps)], args.threads)
            sides["ours"].append((ours["ms"] / 1e3, ours["peak_rss_mb"]))
            more = ["--chunk", str(chunk)] if chunk else []
            peer = run([sys.executable, __file__, "--batch", str(batch), "--steps", str(steps), "--threads",
                        str(args.threads), *more], args.threads)
            sides["torch"].append((peer["seconds"], peer["peak_mb"]))
            print(json.dumps(dict(batch=batch, chunk=chunk, ours=ours, torch=peer)), file=sys.stderr)
        middle = {side: [statistics.median(values) for values in zip(*found)] for side, found in sides.items()}
        rows.append((batch, chunk, middle["ours"], middle["torch"]))
    print("| batch | chunk | ours: memory | seconds a step | PyTorch: memory | seconds a step |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for batch, chunk, (own, own_mb), (other, other_mb) in rows:
        print(f"| {batch} | {chunk or ''} | {own_mb / 1024:.1f} GB | {own:.1f} | {other_mb / 1024:.1f} GB | {other:.1f} |")

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", help="the program, for both sides")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--chunk", type=int)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    compare(args) if args.ours else step_of_torch(args)

if __name__ == "__main__":
    main()
