#!/usr/bin/env python3
"""One rank beside two, one thread each, for the table of docs/ranks.md.

    python scripts/scaling.py --ours target/debug/xtask [--mpi target/debug/xtask] [--rounds 3]

The same batch of the embedded images by one rank, by two of one process and, with --mpi (a program with that feature), by
two processes below mpirun. A run is stopped after a dozen steps; the first two, whose memory is new, do not count. What is
printed: the median of the rounds' medians in seconds, their range, and the efficiency t1 / (2 t2).
"""
import argparse, json, pathlib, statistics, subprocess, tempfile, time

STEPS, WARM = 12, 2
CASES = {
    "SimCLR, ResNet-18, 32 x 32, batch 64": ["simclr", "--preset", "cifar10-repository", "--set", "train.batch_size=64"],
    "DINO, ViT-T/16, 224, batch 16": ["dino", "--preset", "imagenet-vit-t16", "--set", "train.batch_size=16"],
}

def seconds(launch, program, case, ranks):
    """The median of a run's steps."""
    with tempfile.TemporaryDirectory() as folder:
        run = pathlib.Path(folder) / "run"
        command = [*launch, program, "--threads", "1", "train", *case, "--set", "train.log_every_steps=1",
                   "--data", "sign-digits", "--run", str(run), "--workers", "1", *ranks]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        steps = []
        while len(steps) < STEPS:
            if process.poll() is not None:
                raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
            time.sleep(0.5)
            file = run / "metrics.jsonl"
            text = file.read_text() if file.exists() else ""
            lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
            steps = [line["time"]["seconds"] for line in lines if line["kind"] == "step"]
        process.terminate()
        process.wait()
        return statistics.median(steps[WARM:STEPS])

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True, help="the program")
    parser.add_argument("--mpi", help="the program with the feature `mpi`")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    sides = {"one rank": ([], args.ours, []), "two of one process": ([], args.ours, ["--ranks", "2"])}
    if args.mpi:
        launch = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2"]
        sides["two of MPI"] = (launch, args.mpi, ["--mpi"])
    for name, case in CASES.items():
        found = {side: [] for side in sides}
        for _ in range(args.rounds):
            for side, (launch, program, ranks) in sides.items():
                found[side].append(seconds(launch, program, case, ranks))
        one = statistics.median(found["one rank"])
        for side, values in found.items():
            middle = statistics.median(values)
            more = "" if side == "one rank" else f", efficiency {one / (2 * middle):.2f}"
            print(f"{name}, {side}: {middle:.2f} ({min(values):.2f} to {max(values):.2f}){more}", flush=True)

if __name__ == "__main__":
    main()
