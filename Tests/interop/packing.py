#!/usr/bin/env python3
"""Packs real models and gives every byte back; says what packing against a base gains.

    python3 packing.py --oplora PROGRAM --cache FOLDER [--against BASE MERGED]… [--steps N]

Makes SmolLM2-135M (BF16 in one file and in shards, F32) and all-MiniLM-L6-v2 (F32) in FOLDER where they are missing. For each of
them, and for files of every kind, `unpack` must give back what `pack` took, byte for byte, with the program and for the
smaller ones with formats/reference/opck.py. Prints a table of sizes, one of models packed against their bases, and one of
training checkpoints packed against the one a few steps before.
"""
import argparse
import filecmp
import os
import pathlib
import subprocess
import sys
import tempfile

root = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(root / "formats/reference"))
import opck

REFERENCE_LIMIT = 100_000_000
PARTS = {"first moments": "adamw.first.", "second moments": "adamw.second.", "history": "history."}


def run(*command):
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)


def size_of(path):
    path = pathlib.Path(path)
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size


def differences(first, second):
    """The files that are not the same in both."""
    if os.path.isfile(first):
        return [] if filecmp.cmp(first, second, shallow=False) else [first]
    names = {path.relative_to(folder) for folder in map(pathlib.Path, (first, second)) for path in folder.rglob("*")}
    return [name for name in names
            if not all((pathlib.Path(folder) / name).exists() for folder in (first, second))
            or (pathlib.Path(first) / name).is_file() and not filecmp.cmp(pathlib.Path(first) / name, pathlib.Path(second) / name, shallow=False)]


def round_trip(args, path, work, base=None):
    """The bytes of the pack."""
    pack, out, decoded = f"{work}/pack.opck", f"{work}/out", f"{work}/decoded"
    against = ["--against", base] if base else []
    run(args.oplora, "pack", path, "--out", pack, "--no-fsync", *against)
    run(args.oplora, "check", "--deep", pack)
    run(args.oplora, "unpack", pack, "--out", out, "--no-fsync", *against)
    results = [out]
    if size_of(path) <= REFERENCE_LIMIT and not base:
        run(sys.executable, root / "formats/reference/opck.py", "unpack", pack, "--out", decoded)
        results.append(decoded)
    for result in results:
        changed = differences(path, result)
        assert not changed, f"{path}: {changed} came back changed"
        run("rm", "-r", result)
    size = size_of(pack)
    os.unlink(pack)
    return size


def packed_parts(path):
    """Stored and raw bytes of the weights and of each moment of a training checkpoint."""
    file, parts = opck.Checkpoint(path), {}
    for tensor in file.tensors:
        part = next((part for part, prefix in PARTS.items() if tensor.name.startswith(prefix)), "weights")
        stored = sum(row[1] for row in file.rows[tensor.first:tensor.first + tensor.count])
        sums = parts.setdefault(part, [0, 0])
        sums[0] += stored
        sums[1] += tensor.size
    return parts


def checkpoints(args, model, work):
    data = root / "fixtures/texts/adapt-train.txt"
    print("\n| checkpoints | part | bytes | alone | against the one before |\n|---|---|---|---|---|")
    for method in ("lora", "op-lora"):
        before, after, pack, back = (f"{work}/{name}.opck" for name in ("before", "after", "pack", "back"))
        for path, steps in ((before, args.steps), (after, args.steps + 1)):
            run(args.oplora, "train", "--base", model, "--data", data, "--method", method, "--rank", 16, "--alpha", 32, "--targets", "all-linear",
                "--batch-size", 2, "--seq-len", 128, "--lr", "1e-4", "--schedule", "constant", "--steps", steps, "--out", path)
        run(args.oplora, "pack", after, "--against", before, "--out", pack, "--no-fsync")
        run(args.oplora, "unpack", pack, "--against", before, "--out", back, "--no-fsync")
        assert filecmp.cmp(after, back, shallow=False), "the checkpoint came back changed"
        alone, against = packed_parts(after), packed_parts(pack)
        for part in ("weights", "first moments", "second moments"):
            raw = alone[part][1]
            print(f"| {method}, steps {args.steps} and {args.steps + 1} | {part} | {raw:,} | {alone[part][0] / raw:.1%} | {against[part][0] / raw:.1%} |", flush=True)
        for path in (before, after, pack, back):
            os.unlink(path)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--oplora", required=True)
    parser.add_argument("--cache", required=True, type=pathlib.Path)
    parser.add_argument("--against", nargs=2, action="append", default=[], metavar=("BASE", "MERGED"))
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    args.oplora = os.path.abspath(args.oplora)
    args.cache.mkdir(parents=True, exist_ok=True)
    models = {
        "smollm2": ["smollm2.py"], "smollm2-f32": ["smollm2.py", "--dtype", "f32"], "smollm2-shards": ["smollm2.py", "--shard-mb", "100"],
        "minilm": ["minilm.py"],
    }
    for name, (script, *options) in models.items():
        if not (args.cache / name).exists():
            run(sys.executable, root / "fixtures" / script, args.cache / name, *options)
    with tempfile.TemporaryDirectory() as work:
        run(args.oplora, "train", "--base", root / "fixtures/tiny-llama", "--data", root / "fixtures/texts/adapt-train.txt", "--steps", 5,
            "--batch-size", 2, "--seq-len", 32, "--out", f"{work}/run.opck")
        run(args.oplora, "collapse", f"{work}/run.opck", "--out", f"{work}/adapter")
        inputs = [args.cache / name for name in models] + [f"{work}/adapter", f"{work}/run.opck", args.oplora, root / "fixtures"]
        print("| packed and unpacked | bytes | pack | share |\n|---|---|---|---|")
        for path in inputs:
            before, after = size_of(path), round_trip(args, path, work)
            print(f"| {pathlib.Path(path).name} | {before:,} | {after:,} | {after / before:.2%} |", flush=True)
        if args.against:
            print("\n| packed against its base | bytes | alone | against | of that |\n|---|---|---|---|---|")
        for base, merged in args.against:
            before, alone, after = size_of(merged), round_trip(args, merged, work), round_trip(args, merged, work, base)
            print(f"| {merged} | {before:,} | {alone:,} | {after:,} | {after / alone:.1%} |", flush=True)
        checkpoints(args, root / "fixtures/tiny-llama", work)
        checkpoints(args, args.cache / "smollm2", work)


if __name__ == "__main__":
    main()
