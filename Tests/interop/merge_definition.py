"""Checks a merged model against the definition of the merge, element by element.

    python merge_definition.py BASE ADAPTER MERGED

BASE and MERGED are model folders or single safetensors files, ADAPTER is a PEFT folder. The merged weight of a module is

    acc = sum over k = 0 .. r-1, in that order, of B[o,k] * A[k,i]      in binary64, from +0
    y   = W[o,i] + s * acc                                              multiplied, rounded, added, rounded
    W'  = y rounded once, to nearest even, from binary64 to the stored type

Three computations are compared with the file: the sum in numpy's float64, the rounding in integers over the bits of y,
and, for some elements of each tensor, everything in exact rational arithmetic with a rounding of its own. Prints the
number of differing elements over all touched tensors, which must be 0, and exits 1 otherwise. Tensors that the adapter does
not name must have the same bytes. Needs numpy and nothing else: safetensors is read here, so that no library's view of
the file enters.
"""

import json
import math
import os
import random
import re
import struct
import sys
from fractions import Fraction

import numpy as np

FORMATS = {"BF16": (7, 127, np.uint16), "F16": (10, 15, np.uint16), "F32": (23, 127, np.uint32)}


class Weights:
    """All tensors of a safetensors file, or of the shards of a folder."""

    def __init__(self, path):
        self.tensors = {}
        if os.path.isfile(path):
            files = [path]
        else:
            index = os.path.join(path, "model.safetensors.index.json")
            if os.path.exists(index):
                with open(index) as file:
                    names = sorted(set(json.load(file)["weight_map"].values()))
            else:
                names = ["model.safetensors"]
            files = [os.path.join(path, name) for name in names]
        for name in files:
            with open(name, "rb") as file:
                length = struct.unpack("<Q", file.read(8))[0]
                header = json.loads(file.read(length))
            data = np.memmap(name, np.uint8, "r")
            for key, entry in header.items():
                if key != "__metadata__":
                    start, end = entry["data_offsets"]
                    self.tensors[key] = (entry["dtype"], tuple(entry["shape"]), data[8 + length + start : 8 + length + end])

    def bits(self, key):
        dtype, shape, data = self.tensors[key]
        return dtype, np.frombuffer(data.tobytes(), FORMATS[dtype][2]).reshape(shape)


def widen(dtype, bits):
    """The values of stored bits, in float64; exact."""
    if dtype == "F32":
        return bits.view(np.float32).astype(np.float64)
    if dtype == "F16":
        return bits.view(np.float16).astype(np.float64)
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def round_bits(dtype, y):
    """float64 to stored bits, once, to nearest even, in integer arithmetic on the bits of y."""
    fraction, bias, kind = FORMATS[dtype]
    bits = y.view(np.uint64)
    sign = (bits >> np.uint64(63)).astype(np.uint64)
    exponent = ((bits >> np.uint64(52)) & np.uint64(0x7FF)).astype(np.int64)
    significand = bits & np.uint64((1 << 52) - 1)
    significand = np.where(exponent > 0, significand | np.uint64(1 << 52), significand)
    exponent = np.maximum(exponent, 1) - 1023 + bias
    # Numbers below the smallest normal one keep its last place, so more bits of them are dropped.
    dropped = np.clip(52 - fraction + np.maximum(1 - exponent, 0), 0, 62).astype(np.uint64)
    kept = significand >> dropped
    rest = significand - (kept << dropped)
    half = np.uint64(1) << (dropped - np.uint64(1))
    up = (rest > half) | ((rest == half) & ((kept & np.uint64(1)) == 1))
    kept = kept + up.astype(np.uint64)
    # The hidden bit, where there is one, adds one to the exponent field by itself.
    result = kept + (np.maximum(exponent - 1, 0).astype(np.uint64) << np.uint64(fraction))
    width = 32 if dtype == "F32" else 16
    return ((sign << np.uint64(width - 1)) | result).astype(kind)


def exact_element(dtype, weight_bits, a, b, scale):
    """One element in rational arithmetic: each float64 operation is the exact one, rounded by hand."""
    acc = Fraction(0)
    for k in range(len(a)):
        acc = round_binary(acc + round_binary(Fraction(float(b[k])) * Fraction(float(a[k])), 53, -1074), 53, -1074)
    update = round_binary(Fraction(scale) * acc, 53, -1074)
    y = round_binary(Fraction(float(widen(dtype, np.array([weight_bits]))[0])) + update, 53, -1074)
    fraction, bias, _ = FORMATS[dtype]
    return round_binary(y, fraction + 1, 1 - bias - fraction)


def round_binary(value, precision, smallest):
    """The multiple of the last place nearest to `value`, ties to even, for `precision` bits and a least place 2**smallest."""
    if value == 0:
        return value
    magnitude = abs(value)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    while Fraction(2) ** exponent > magnitude:
        exponent -= 1
    while Fraction(2) ** (exponent + 1) <= magnitude:
        exponent += 1
    place = Fraction(2) ** max(exponent - precision + 1, smallest)
    return round(value / place) * place


def scale_of(config, module, rank):
    alpha = config["lora_alpha"]
    for key, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            alpha = value
            break
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def main(base_path, adapter_path, merged_path):
    base, merged = Weights(base_path), Weights(merged_path)
    adapter = Weights(os.path.join(adapter_path, "adapter_model.safetensors"))
    with open(os.path.join(adapter_path, "adapter_config.json")) as file:
        config = json.load(file)
    if sorted(base.tensors) != sorted(merged.tensors):
        print("the merged model holds other tensors than the base")
        return 1
    prefix, suffix = "base_model.model.", ".lora_A.weight"
    modules = {key[len(prefix) : -len(suffix)] for key in adapter.tensors if key.endswith(suffix)}
    if 2 * len(modules) != len(adapter.tensors):
        print("the adapter holds tensors that this script does not know")
        return 1
    random.seed(7)
    differing = elements = spots = wrong_spots = copied = 0
    for key in base.tensors:
        module = key.removesuffix(".weight")
        if module not in modules:
            same = base.tensors[key][:2] == merged.tensors[key][:2] and np.array_equal(base.tensors[key][2], merged.tensors[key][2])
            copied += 1
            if not same:
                print(f"{key}: changed, and no adapter names it")
                differing += 1
            continue
        modules.discard(module)
        dtype, weight = base.bits(key)
        merged_dtype, stored = merged.bits(key)
        a = widen(*adapter.bits(prefix + module + ".lora_A.weight"))
        b = widen(*adapter.bits(prefix + module + ".lora_B.weight"))
        scale = scale_of(config, module, a.shape[0])
        if not b.any():
            expected = weight if dtype == merged_dtype else round_bits(merged_dtype, widen(dtype, weight))
        else:
            acc = np.zeros(weight.shape)
            for k in range(a.shape[0]):
                acc = acc + b[:, k : k + 1] * a[k : k + 1, :]
            y = widen(dtype, weight) + scale * acc
            expected = round_bits(merged_dtype, y)
        count = int(np.count_nonzero(expected != stored)) if merged_dtype in FORMATS else weight.size
        if count:
            place = tuple(int(i) for i in np.argwhere(expected != stored)[0])
            print(f"{key}: {count} elements differ, the first at {place}: {stored[place]:#x} instead of {expected[place]:#x}")
        differing += count
        elements += weight.size
        if b.any() and dtype == merged_dtype:
            for _ in range(20):
                o, i = random.randrange(weight.shape[0]), random.randrange(weight.shape[1])
                exact = exact_element(dtype, weight[o, i], a[:, i], b[o], scale)
                spots += 1
                if exact != Fraction(float(widen(dtype, stored[o : o + 1, i : i + 1])[0, 0])):
                    print(f"{key}: [{o},{i}] is not the exact result")
                    wrong_spots += 1
    for module in sorted(modules):
        print(f"{module}: the base holds no such module")
        differing += 1
    print(f"{differing} of {elements} elements differ; {wrong_spots} of {spots} exact checks fail; {copied} tensors copied")
    return 1 if differing or wrong_spots or not elements else 0


if __name__ == "__main__":
    if len(sys.argv) != 4:
        print(__doc__)
        sys.exit(64)
    sys.exit(main(*sys.argv[1:]))
