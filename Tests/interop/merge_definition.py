"""Checks a merged model against the definition of the merge, element by element.

    python merge_definition.py BASE ADAPTER MERGED

BASE and MERGED are model folders or single safetensors files, ADAPTER is a PEFT folder. The merged weight of a module is

    acc = sum over k = 0 .. r-1, in that order, of B[o,k] * A[k,i]      in binary64, from +0
    y   = W[o,i] + s * acc                                              multiplied, rounded, added, rounded
    W'  = y rounded once, to nearest even, from binary64 to the stored type

and with magnitudes (DoRA) y is first scaled to them (see `scaled`). Every kind of module that PEFT adapts is known, and the
values that an adapter puts in the place of the base's.

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

# Families whose class of experts has is_transposed.
TRANSPOSED_EXPERTS = ("aria", "aria_text", "gpt_oss", "openai_privacy_filter")


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


# What an adapter does to a tensor as it is stored: to its rows, seen as a matrix, it adds scale * (left @ right); then, with
# magnitudes, each row (axis 0) or column (axis 1) gets that norm.


class Update:
    def __init__(self, tensor, first, left, right, scale, is_zero, magnitudes=None, axis=None):
        self.tensor, self.first, self.left, self.right, self.scale = tensor, first, left, right, scale
        self.is_zero, self.magnitudes, self.axis = is_zero, magnitudes, axis
        self.rows, self.columns = left.shape[0], right.shape[1]

    def acc(self):
        return product(self.left, self.right)


def product(left, right):
    """The sums of products in the order of the definition."""
    acc = np.zeros((left.shape[0], right.shape[1]))
    for k in range(left.shape[1]):
        acc = acc + left[:, k : k + 1] * right[k : k + 1, :]
    return acc


class Evaluated(Update):
    """An update that is no product of two matrices, but computed from several, and for a convolution seen as a matrix."""

    def __init__(self, tensor, value, scale, is_zero):
        self.tensor, self.first, self.scale, self.is_zero, self.magnitudes, self.value = tensor, 0, scale, is_zero, None, value
        self.rows, self.columns = value.shape

    def acc(self):
        return self.value


def composed(core, inner):
    """[r, c, p] and [c, i] as [r, (i, p)]."""
    core = core.reshape(core.shape[0], core.shape[1], -1)
    result = np.zeros((core.shape[0], inner.shape[1], core.shape[2]))
    for n in range(core.shape[1]):
        result = result + core[:, n, None, :] * inner[n, :, None][None]
    return result.reshape(core.shape[0], -1)


def factor(parts, name, number, matrix):
    """One matrix of a LoHa (`hada_w1`) or LoKr (`lokr_w1`): what it is, and its rank, or nothing where it is whole."""
    whole = f"{name}_w{number}"
    if whole in parts:
        value = matrix(parts[whole])
        return value.reshape(value.shape[0], -1), None
    a, b = matrix(parts[whole + "_a"]), matrix(parts[whole + "_b"])
    if f"{name}_t{number}" in parts:
        a, b = a.T, composed(matrix(parts[f"{name}_t{number}"]), b)
    b = b.reshape(b.shape[0], -1)
    return product(a, b), a.shape[1]


def evaluated(parts, matrix):
    """s·acc of a LoHa or LoKr without s, and the rank that alpha is divided by."""
    if any(part.startswith("hada") for part in parts):
        (first, rank), (second, _) = factor(parts, "hada", 1, matrix), factor(parts, "hada", 2, matrix)
        return first * second, rank
    (first, rank), (second, other) = factor(parts, "lokr", 1, matrix), factor(parts, "lokr", 2, matrix)
    value = first[:, None, :, None] * second[None, :, None, :]
    return value.reshape(first.shape[0] * second.shape[0], -1), rank or other


def matches(keys, module, default):
    for key, value in (keys or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def scale_of(config, module, rank):
    alpha = matches(config.get("alpha_pattern"), module, config["lora_alpha"] if "lora_alpha" in config else config["alpha"])
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


class Adapter:
    """A PEFT adapter: updates and replaced values, by the tensors of the base."""

    SUFFIXES = {".lora_A.weight": "A", ".lora_B.weight": "B", ".lora_embedding_A": "EA", ".lora_embedding_B": "EB",
                ".lora_magnitude_vector": "M", ".lora_B.bias": "bias"}
    TOKENS = ".token_adapter.trainable_tokens_delta"

    def __init__(self, path, base, model):
        folder = path if os.path.exists(os.path.join(path, "adapter_config.json")) else next(
            entry.path for entry in os.scandir(path) if os.path.exists(os.path.join(entry.path, "adapter_config.json")))
        with open(os.path.join(folder, "adapter_config.json")) as file:
            self.config = json.load(file)
        self.base, self.model = base, model
        self.file = Weights(os.path.join(folder, "adapter_model.safetensors"))
        self.updates, self.replaced, self.rows = [], {}, {}
        modules, evaluated_modules = {}, {}
        for key in self.file.tensors:
            name = key.removeprefix("base_model.model.")
            suffix = next((end for end in self.SUFFIXES if name.endswith(end)), None)
            stem, _, part = name.rpartition(".")
            if part.startswith(("hada_", "lokr_")):
                evaluated_modules.setdefault(stem, {})[part] = key
            elif suffix:
                modules.setdefault(name[: -len(suffix)], {})[self.SUFFIXES[suffix]] = key
            elif name.endswith(self.TOKENS):
                self.add_tokens(name[: -len(self.TOKENS)], key)
            else:
                self.replaced[self.resolve(name.replace(".base_layer", "")) or name] = key
        for module, parts in modules.items():
            self.add(module, parts)
        for module, parts in evaluated_modules.items():
            value, rank = evaluated(parts, self.values)
            rank = rank or matches(self.config.get("rank_pattern"), module, self.config["r"])
            self.updates.append(
                Evaluated(self.resolve(module + ".weight"), value, scale_of(self.config, module, rank),
                          any(not self.values(key).any() for key in parts.values())))

    def resolve(self, name):
        """The base's own name of a tensor: with or without the name of the inner model."""
        names = [name, name.split(".", 1)[-1]] + [key for key in self.base.tensors if key.split(".", 1)[-1] == name]
        found = next((key for key in names if key in self.base.tensors), None)
        return found or (name if name == "lm_head.weight" and self.model.get("tie_word_embeddings", True) else None)

    def add_tokens(self, module, key):
        indices = self.config["trainable_token_indices"]
        if isinstance(indices, dict):
            indices = next(value for name, value in indices.items() if module == name or module.endswith("." + name))
        self.rows[self.resolve(module + ".weight")] = (key, indices)

    def values(self, key):
        return widen(*self.file.bits(key))

    def add(self, module, parts):
        is_embedding = "EA" in parts
        a, b = self.values(parts["EA" if is_embedding else "A"]), self.values(parts["EB" if is_embedding else "B"])
        a, b = a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1)
        name = module.replace(".base_layer", "")
        parameters = self.parameters(name)
        if parameters == ["weight"]:  # of a module that PEFT does not adapt as one, such as a router
            label = name + ".weight"
            rank = matches(self.config.get("rank_pattern"), label, self.config["r"])
            self.updates.append(Update(self.resolve(label) or self.resolve(label.replace(".mlp.", ".block_sparse_moe.")), 0, b, a,
                                       scale_of(self.config, label, rank), not b.any()))
            return None
        if parameters:
            return self.add_experts(name, sorted(parameters, key=["gate_up_proj", "down_proj"].index)[-1 - module.count(".base_layer")], a, b)
        tensor = self.resolve(name + ".weight")
        scale = scale_of(self.config, name, a.shape[0])
        is_transposed = is_embedding or (
            self.model.get("model_type") == "gpt2" and name.rsplit(".", 1)[-1] in ("c_attn", "c_proj", "c_fc"))
        magnitudes = self.values(parts["M"]).reshape(-1) if "M" in parts else None
        left, right = (a.T, b.T) if is_transposed else (b, a)
        self.updates.append(Update(tensor, 0, left, right, scale, not b.any() and magnitudes is None, magnitudes, 1 if is_transposed else 0))
        if "bias" in parts:
            bias = self.values(parts["bias"])
            self.updates.append(Update(self.resolve(name + ".bias"), 0, np.ones((1, 1)), bias[None, :], scale, not bias.any()))

    def parameters(self, name):
        """The parameters of a module that target_parameters names; a name without a dot may be that of any module that is none of the targets."""
        targets = self.config.get("target_modules") or []
        if re.fullmatch(targets, name) if isinstance(targets, str) else any(name == t or name.endswith("." + t) for t in targets):
            return []
        named = [t.rpartition(".") for t in self.config.get("target_parameters") or []]
        own = [last for owner, _, last in named if owner and (name == owner or name.endswith("." + owner))]
        return own or [last for owner, _, last in named if not owner]

    def add_experts(self, module, parameter, a, b):
        label = f"{module}.{parameter}"
        rank = matches(self.config.get("rank_pattern"), label, self.config["r"])
        scale, count = scale_of(self.config, label, rank), a.shape[0] // rank
        b = b.reshape(b.shape[0], rank, count)  # [out, rank, expert]
        names = {"gate_up_proj": [("gate_proj", "up_proj"), ("w1", "w3")], "down_proj": [("down_proj",), ("w2",)]}[parameter]
        stacked = self.resolve(label) or self.resolve(f"{module}.{dict(gate_up_proj='fc1', down_proj='fc2')[parameter]}.weight")
        for expert in range(count):
            left, right = b[:, :, expert], a[expert * rank : (expert + 1) * rank]
            zero = not left.any()
            if stacked:
                if self.model.get("model_type") in TRANSPOSED_EXPERTS:
                    left, right = right.T, left.T
                self.updates.append(Update(stacked, expert * left.shape[0], left, right, scale, zero))
                continue
            owner, matrices = next((owner, group) for owner in (module, module.replace(".mlp.", ".block_sparse_moe.")) for group in names
                                   if self.resolve(f"{owner}.{expert}.{group[0]}.weight"))
            first = 0
            for matrix in matrices:
                tensor = f"{owner}.{expert}.{matrix}.weight"
                height = self.base.tensors[tensor][1][0]
                part = left[first : first + height]
                self.updates.append(Update(tensor, 0, part, right, scale, not part.any()))
                first += height


def scaled(u, magnitudes, axis):
    """Rows or columns of u with other norms; the squares are added in eight lanes, lane j taking the elements j mod 8 in order."""
    lines = u if axis == 0 else u.T
    lanes = np.zeros((8, lines.shape[0]))
    for index in range(lines.shape[1]):
        lanes[index % 8] = lanes[index % 8] + lines[:, index] * lines[:, index]
    norms = np.sqrt(((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7])))
    result = (magnitudes / norms)[:, None] * lines
    return result if axis == 0 else result.T


def expected_tensor(name, base, adapter, merged_dtype, tie):
    """The bits that the definition gives, as a flat array; also the state for exact checks of a plain update."""
    source = adapter.file.bits(adapter.replaced[name]) if name in adapter.replaced else base.bits(tie if name not in base.tensors else name)
    dtype, weight = source
    updates = [update for update in adapter.updates if update.tensor == name and not update.is_zero]
    if not updates and name not in adapter.rows:
        return weight if dtype == merged_dtype else round_bits(merged_dtype, widen(dtype, weight)), None
    y = widen(dtype, weight).copy()
    bits = (weight if dtype == merged_dtype else round_bits(merged_dtype, y)).copy()
    columns = updates[0].columns if updates else weight.shape[-1]
    y, bits = y.reshape(-1, columns), bits.reshape(-1, columns)
    for update in updates:
        band = slice(update.first, update.first + update.rows)
        y[band] = y[band] + update.scale * update.acc()
        if update.magnitudes is not None:
            y[band] = scaled(y[band], update.magnitudes, update.axis)
        bits[band] = round_bits(merged_dtype, np.ascontiguousarray(y[band]))
    if name in adapter.rows:
        key, indices = adapter.rows[name]
        bits[indices] = round_bits(merged_dtype, adapter.values(key))
    plain = updates[0] if len(updates) == 1 and type(updates[0]) is Update and updates[0].magnitudes is None and dtype == merged_dtype and not updates[0].first else None
    return bits.reshape(weight.shape), plain and (weight.reshape(-1, columns), plain)


def main(base_path, adapter_path, merged_path):
    base, merged = Weights(base_path), Weights(merged_path)
    model = {}
    if os.path.isdir(base_path) and os.path.exists(os.path.join(base_path, "config.json")):
        with open(os.path.join(base_path, "config.json")) as file:
            model = json.load(file)
    adapter = Adapter(adapter_path, base, model)
    tie = next((key for key in base.tensors if key.endswith(("embed_tokens.weight", "wte.weight"))), None)
    random.seed(7)
    differing = elements = spots = wrong_spots = copied = 0
    touched = {update.tensor for update in adapter.updates} | set(adapter.replaced) | set(adapter.rows)
    for key in sorted(set(base.tensors) | touched):
        if key is None or key not in merged.tensors:
            # A head that is the embedding once more is not stored twice.
            if key != "lm_head.weight" or adapter.updates and key in {update.tensor for update in adapter.updates}:
                print(f"{key}: the merged model does not hold it")
                differing += 1
            continue
        if key not in touched:
            same = base.tensors[key][:2] == merged.tensors[key][:2] and np.array_equal(base.tensors[key][2], merged.tensors[key][2])
            copied += 1
            if not same:
                print(f"{key}: changed, and no adapter names it")
                differing += 1
            continue
        merged_dtype, stored = merged.bits(key)
        expected, plain = expected_tensor(key, base, adapter, merged_dtype, tie)
        count = int(np.count_nonzero(expected != stored)) if expected.shape == stored.shape else stored.size
        if count:
            print(f"{key}: {count} elements differ" + (f", the first at {tuple(int(i) for i in np.argwhere(expected != stored)[0])}"
                                                       if expected.shape == stored.shape else f": {stored.shape} for {expected.shape}"))
        differing += count
        elements += stored.size
        if plain:
            weight, update = plain
            flat = stored.reshape(weight.shape)
            for _ in range(20):
                o, i = random.randrange(weight.shape[0]), random.randrange(weight.shape[1])
                exact = exact_element(merged_dtype, weight[o, i], update.right[:, i], update.left[o], update.scale)
                spots += 1
                if exact != Fraction(float(widen(merged_dtype, flat[o : o + 1, i : i + 1])[0, 0])):
                    print(f"{key}: [{o},{i}] is not the exact result")
                    wrong_spots += 1
    for key in sorted(set(merged.tensors) - set(base.tensors) - touched - {"lm_head.weight"}):
        print(f"{key}: neither the base nor the adapter holds it")
        differing += 1
    print(f"{differing} of {elements} elements differ; {wrong_spots} of {spots} exact checks fail; {copied} tensors copied")
    return 1 if differing or wrong_spots or not elements else 0


if __name__ == "__main__":
    if len(sys.argv) != 4:
        print(__doc__)
        sys.exit(64)
    sys.exit(main(*sys.argv[1:]))
