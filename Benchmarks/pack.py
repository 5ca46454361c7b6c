"""Packing beside zipnn, zstd -3 and zlib -6, in memory and in one run: size, and GB/s both ways.

    python3 Benchmarks/pack.py FILE.safetensors… [--oplora PROGRAM] [--speed PROGRAM] [--rounds N]

Every program gets the bytes in memory and gives bytes in memory; what it needs to allocate for that is its own. oplora makes
and checks both checksums of every chunk; zipnn and zlib's raw streams have none. Size is that of the whole file, GB/s are of
the uncompressed bytes: the best of all rounds, which take the programs in turn, each five times. zlib has one thread, is given the
first 50 MB, and takes its turn once, as it is nowhere near. "x zipnn" compares with zipnn on as many threads, "copies" with copying the same bytes in memory once.
"""
import argparse
import json
import os
import pathlib
import struct
import subprocess
import tempfile
import time
import zlib
from importlib.metadata import version

import numpy
import zipnn
import zstandard

from training import machine

ZLIB_BYTES = 50_000_000
RUNS = 5  # as many as CheckpointSpeed makes
ZIPNN_TYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def read(path):
    """The bytes of a file and the element type of most of them."""
    data = pathlib.Path(path).read_bytes()
    length, = struct.unpack_from("<Q", data)
    sizes = {}
    for name, entry in json.loads(data[8:8 + length]).items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            sizes[entry["dtype"]] = sizes.get(entry["dtype"], 0) + end - start
    return data, max(sizes, key=sizes.get)


def timed(action):
    start = time.perf_counter()
    result = action()
    return result, time.perf_counter() - start


def both_ways(data, compress, decompress, runs=RUNS):
    """Share of the size, the fewest seconds to compress and to decompress."""
    forth = back = float("inf")
    for _ in range(runs):
        # zipnn changes what it is given.
        source = bytearray(data)
        packed, seconds = timed(lambda: compress(source))
        size, forth = len(packed), min(forth, seconds)
        unpacked, seconds = timed(lambda: decompress(packed))
        back = min(back, seconds)
        assert bytes(unpacked) == data
    return size / len(data), forth, back


def with_zipnn(data, dtype, threads):
    coder = zipnn.ZipNN(bytearray_dtype=ZIPNN_TYPES[dtype], input_format="byte", threads=threads)
    return both_ways(data, coder.compress, coder.decompress)


def with_zstd(data, threads):
    compress = zstandard.ZstdCompressor(level=3, threads=threads if threads > 1 else 0).compress
    return both_ways(data, compress, lambda packed: zstandard.ZstdDecompressor().decompress(packed, max_output_size=len(data)))


def with_zlib(data):
    return both_ways(data[:ZLIB_BYTES], lambda source: zlib.compress(source, 6, -15), lambda packed: zlib.decompress(packed, -15), runs=1)


def with_oplora(args, path):
    """For each number of threads the seconds both ways and of a copy."""
    lines = subprocess.run([args.speed, path], check=True, capture_output=True, text=True).stdout.splitlines()
    return {line["threads"]: line for line in map(json.loads, lines)}


def packed_share(args, path):
    with tempfile.TemporaryDirectory() as work:
        out = f"{work}/file.opck"
        subprocess.run([args.oplora, "pack", path, "--out", out, "--no-fsync", "--quiet"], check=True)
        return os.path.getsize(out) / os.path.getsize(path)


def measure(args, path):
    data, dtype = read(path)
    source = numpy.frombuffer(data, numpy.uint8)
    target = numpy.zeros_like(source)
    counts = sorted({1, os.cpu_count()})
    rows = {}

    def note(name, threads, share, forth, back, size=len(data)):
        known = rows.get((name, threads))
        speeds = (size / forth / 1e9, size / back / 1e9)
        rows[name, threads] = (share, *(speeds if known is None else map(max, speeds, known[1:])))

    share, copy = packed_share(args, path), 0
    for _ in range(args.rounds):
        for threads, line in with_oplora(args, path).items():
            note("oplora", threads, share, line["coding"], line["decoding"], line["bytes"])
        for threads in counts:
            note("zipnn", threads, *with_zipnn(data, dtype, threads))
            note("zstd -3", threads, *with_zstd(data, threads))
        note("zlib -6", 1, *with_zlib(data), ZLIB_BYTES)
        copy = max(copy, len(data) / timed(lambda: numpy.copyto(target, source))[1] / 1e9)

    print(f"\n{path.split('/')[-2]}/{path.split('/')[-1]}: {dtype}, {len(data) / 1e6:.1f} MB, copied at {copy:.1f} GB/s\n")
    print("| program | threads | size | compress GB/s | x zipnn | copies | decompress GB/s | x zipnn | copies |")
    print("|---|---|---|---|---|---|---|---|---|")
    for (name, threads), (size, forth, back) in sorted(rows.items(), key=lambda row: (row[0][1], -row[1][2])):
        other = rows["zipnn", threads]
        print(f"| {name} | {threads} | {size:.2%} | {forth:.2f} | {forth / other[1]:.2f} | {forth / copy:.3f} "
              f"| {back:.2f} | {back / other[2]:.2f} | {back / copy:.3f} |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+")
    parser.add_argument("--oplora", default=".build/release/oplora")
    parser.add_argument("--speed", default=".build/release/CheckpointSpeed")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(f"{machine()}\nzipnn {version('zipnn')}, zstandard {version('zstandard')}, zlib {zlib.ZLIB_RUNTIME_VERSION}")
    for path in args.files:
        measure(args, os.path.abspath(path))


if __name__ == "__main__":
    main()
