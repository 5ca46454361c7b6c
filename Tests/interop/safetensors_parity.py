#!/usr/bin/env python3
"""Compares `oplora check --mode reference` with the reference safetensors library: both must accept or both refuse.

    python safetensors_parity.py PROGRAM [--files N] [--seed S]

Every file is made from a valid one by a few random changes: to its bytes, to its JSON text, or to what the text says
(repeated keys, other types, other spellings of a number, deep nesting, escapes, offsets, sizes). The last line counts the
files, how many both accept, and the disagreements. Exits 1 if there is one, and leaves those files in the folder that it names.
"""

import argparse
import json
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile

from safetensors import SafetensorError, deserialize

BITS = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
        "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
        "C64": 64, "F64": 64, "I64": 64, "U64": 64}
# Texts that stand where a JSON value stood.
VALUES = ["null", "true", "false", "0", "-0", "-1", "1", "1.0", "1e0", "1E2", "0.0", "1e400", "-1e400", "0e999999", "00", "01", "+1", ".5", "5.",
          "1e", "1e+", "18446744073709551615", "18446744073709551616", "9223372036854775808", "99999999999999999999999", '""', '"F32"', '"f32"',
          '"BF16"', '"X"', "[]", "{}", "[0]", "[0,0]", "[0,4]", "[0,4,8]", "[4,0]", "[null]", '{"F32":null}', '{"F32":1}', '{"F32":null,"F16":null}',
          '"\\u0046\\u00332"', '"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"', '"\\u00e9"', '"\\x"', '"\\u00g0"', "nul", "True", "NaN", "Infinity",
          "'a'", "[1,]", "{,}", '{"a":1,}', "/**/1", "[" * 124 + "]" * 124, "[" * 125 + "]" * 125, "[" * 126 + "]" * 126, "[" * 127 + "]" * 127, "[" * 128 + "]" * 128, '["F32",[1],[0,4]]',
          '["F32",[1],[0,4],0]', '["F32",[1]]', '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}']
KEYS = ['"__metadata__"', '"dtype"', '"shape"', '"data_offsets"', '"a"', '"b"', '"\\u0061"', '"e\\u0301"', '"\\u00e9"', '""', '"dtype "', '"Dtype"',
        '"extra"', "a", "1", '"\\u0000"']
BYTES = b'{}[]",:0123456789-+.eE \t\n\r\\unft\x00\x1f\x7f\xc3\xa9\xff\xed\xa0\x80'


def valid(rng):
    """A valid file as (members of the header, bytes of data): members are [key, value] with values in JSON text."""
    members, offset = [], 0
    if rng.random() < 0.5:
        pairs = ",".join(f'"{k}":"{v}"' for k, v in [("format", "pt"), ("n", "1")][:rng.randrange(3)])
        members.append(['"__metadata__"', "{" + pairs + "}"])
    for number in range(rng.randrange(5)):
        dtype = rng.choice(list(BITS))
        shape = [rng.choice([0, 1, 2, 3, 4, 8]) for _ in range(rng.randrange(4))]
        elements = 1
        for size in shape:
            elements *= size
        if elements * BITS[dtype] % 8:
            shape.append(8)
            elements *= 8
        size = elements * BITS[dtype] // 8
        fields = [['"dtype"', f'"{dtype}"'], ['"shape"', json.dumps(shape)], ['"data_offsets"', json.dumps([offset, offset + size])]]
        rng.shuffle(fields)
        members.append([json.dumps(rng.choice("abcdef") + str(number)), fields])
        offset += size
    rng.shuffle(members)
    return members, offset


def spelled(members, rng):
    space = (lambda: rng.choice(["", "", "", " ", "\n", "\t", "\r"])) if rng.random() < 0.2 else (lambda: "")

    def value(item):
        if isinstance(item, str):
            return item
        return "{" + ",".join(f"{space()}{key}{space()}:{space()}{value(inner)}{space()}" for key, inner in item) + "}"

    return value(members)


def change_structure(members, rng):
    """One change to what the header says."""
    lists = [members] + [inner for _, inner in members if isinstance(inner, list)]
    target = rng.choice(lists)
    kind = rng.randrange(7)
    if kind == 0:
        target.insert(rng.randrange(len(target) + 1), [rng.choice(KEYS), rng.choice(VALUES)])
    elif not target:
        return
    elif kind == 1:
        target.append(json.loads(json.dumps(rng.choice(target))))
    elif kind == 2:
        target.pop(rng.randrange(len(target)))
    elif kind == 3:
        rng.choice(target)[0] = rng.choice(KEYS)
    elif kind == 4:
        rng.choice(target)[1] = rng.choice(VALUES)
    elif kind == 5:
        entry = rng.choice(target)
        if isinstance(entry[1], list):  # a tensor as a list
            order = {key: inner for key, inner in entry[1]}
            entry[1] = "[" + ",".join(spelled(order.get(key, "0"), rng) for key in ('"dtype"', '"shape"', '"data_offsets"')) + "]"
        elif entry[0] == '"dtype"':
            entry[1] = "{" + str(entry[1]) + ":null}"
    else:
        entry = rng.choice(target)
        if isinstance(entry[1], str) and entry[1].startswith("["):
            try:
                numbers = json.loads(entry[1])
            except ValueError:
                return
            if numbers and all(isinstance(n, int) for n in numbers):
                place = rng.randrange(len(numbers))
                numbers[place] = rng.choice([0, 1, -1, numbers[place] + 1, 2**32, 2**63, 2**64 - 1, 2**64, numbers[place] * 2])
                entry[1] = json.dumps(numbers)


def change_bytes(data, rng):
    data = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        place = rng.randrange(len(data) + 1)
        kind = rng.randrange(4)
        if kind == 0 and data:
            data[place % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data.insert(place, rng.choice(BYTES))
        elif kind == 2 and data:
            del data[place:place + rng.randrange(1, 4)]
        elif data:
            data[place % len(data)] = rng.choice(BYTES)
    return bytes(data)


def make(rng):
    members, size = valid(rng)
    for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
        change_structure(members, rng)
    text = spelled(members, rng).encode("utf-8", "surrogatepass")
    if rng.random() < 0.3:
        text = rng.choice([b" ", b"\n", b"", b"\xef\xbb\xbf", b"\x00"]) + text + rng.choice([b" ", b"\n", b"   ", b"\x00", b"x", b"{}"])
    if rng.random() < 0.35:
        text = change_bytes(text, rng)
    length = len(text) + (rng.choice([-1, 1, 8, 2**31, 2**63]) if rng.random() < 0.05 else 0)
    data = b"\x5a" * max(0, size + (rng.choice([-1, 1, 4]) if rng.random() < 0.05 else 0))
    file = struct.pack("<Q", max(0, length)) + text + data
    return file[:rng.randrange(len(file) + 1)] if rng.random() < 0.02 else file


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    accepted = refused = 0
    wrong = []
    kept = pathlib.Path(tempfile.mkdtemp(prefix="safetensors-parity-"))
    batch = 1000
    for start in range(0, args.files, batch):
        with tempfile.TemporaryDirectory() as folder:
            theirs = {}
            for number in range(start, min(start + batch, args.files)):
                path = pathlib.Path(folder, f"{number}.safetensors")
                content = make(rng)
                path.write_bytes(content)
                try:
                    deserialize(content)
                    theirs[str(path)] = "ok"
                except SafetensorError as error:
                    theirs[str(path)] = f"refused: {error}"
            result = subprocess.run([args.program, "check", "--mode", "reference", *theirs], capture_output=True, text=True)
            ours = dict(line.split(": ", 1) for line in result.stdout.splitlines() if ".safetensors: " in line)
            for path, verdict in theirs.items():
                answer = ours.get(path, "no answer")
                accepted += verdict == "ok" and answer == "ok"
                refused += verdict != "ok" and answer not in ("ok", "no answer")
                if (verdict == "ok") != (answer == "ok") or answer == "no answer":
                    wrong.append((shutil.copy(path, kept), verdict, answer))
    for path, verdict, answer in wrong[:20]:
        print(f"{path}\n  reference: {verdict}\n  oplora:    {answer}")
    if not wrong:
        kept.rmdir()
    print(f"seed {args.seed}: {args.files} files, {accepted} accepted and {refused} refused by both, {len(wrong)} disagreements")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
