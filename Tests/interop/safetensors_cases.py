#!/usr/bin/env python3
"""Prints a Markdown table of the cases in the reference safetensors library's own tests, and the answers of three readers.

    python safetensors_cases.py PROGRAM

The cases are those of the library's Rust unit tests, by the names of the tests, made here from what each is about. The answers
are those of the library itself (its Python package), of `oplora check --mode reference` and of `oplora check`. Exits 1 if the
first two differ in whether they accept.
"""

import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save


def file(header, data=b""):
    header = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(header)) + header + data


def entry(shape, offsets):
    return f'{{"test":{{"dtype":"I32","shape":{shape},"data_offsets":{offsets}}}}}'


def gpt2(blocks):
    """A model of GPT-2's names and shapes, a hundredth as wide."""
    tensors = {"wte": (502, 7), "wpe": (10, 7), "ln_f.weight": (7,), "ln_f.bias": (7,)}
    for i in range(blocks):
        tensors |= {f"h.{i}.ln_1.weight": (7,), f"h.{i}.ln_1.bias": (7,), f"h.{i}.attn.bias": (1, 1, 10, 10),
                    f"h.{i}.attn.c_attn.weight": (7, 23), f"h.{i}.attn.c_attn.bias": (23,), f"h.{i}.mlp.c_fc.weight": (7, 30)}
    return save({name: numpy.zeros(shape, numpy.float32) for name, shape in tensors.items()})


six = numpy.arange(6, dtype=numpy.float32)
good = file(entry("[2,2]", "[0,16]"), bytes(16))
attack = ",".join(f'"weight_{i}":{{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}' for i in range(10))
CASES = {
    "test_serialization": save({"attn.0": six.reshape(1, 2, 3)}),
    "test_serialization_forced_alignement": save({"attn0": six.reshape(1, 1, 2, 3)}),
    "test_empty": save({}),
    "test_empty, with metadata": save({}, {"framework": "pt"}),
    "test_gpt2": gpt2(12),
    "test_gpt2_tiny": gpt2(6),
    "test_empty_shapes_allowed": file(entry("[]", "[0,4]"), bytes(4)),
    "test_deserialization, test_lifetimes, test_slicing": good,
    "test_zero_sized_tensor": file(entry("[2,0]", "[0, 0]")),
    "test_whitespace_padded_header": file("{}\r \t\n"),
    "test_whitespace_start_padded_header_is_not_allowed (reserved)": file("\t\n{}\r "),
    "test_json_attack": file("{" + attack + "}", bytes(16)),
    "test_metadata_incomplete_buffer, bytes behind": good + b"the beginning of another file",
    "test_metadata_incomplete_buffer, bytes missing": good[:-2],
    "test_header_too_large": good[:5] + b"\xff\xff\xff" + good[8:],
    "test_header_too_small": b"",
    "test_invalid_header_length": good[:8],
    "test_invalid_header_non_utf8": file(b"\xff"),
    "test_invalid_header_not_json": file("{"),
    "test_invalid_info": file(entry("[2,2]", "[0, 4]")),
    "test_validation_overflow, of the shape": file(entry("[2,18446744073709551614]", "[0,16]"), bytes(16)),
    "test_validation_overflow, of the size": file(entry("[2,9223372036854775807]", "[0,16]"), bytes(16)),
}


def main():
    program = sys.argv[1]
    disagreements = 0
    print("| test of the reference library | the library | `check --mode reference` | `check` |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "case.safetensors")
        for name, content in CASES.items():
            path.write_bytes(content)
            try:
                deserialize(content)
                theirs = "ok"
            except SafetensorError as error:
                theirs = str(error).removeprefix("Error while deserializing: ").split(" (")[0].split(" at line")[0]
            ours = []
            for mode in ("reference", "strict"):
                output = subprocess.run([program, "check", "--mode", mode, path], capture_output=True, text=True).stdout
                ours.append(output.removeprefix(f"{path}: ").strip().split(":")[0])
            disagreements += (theirs == "ok") != (ours[0] == "ok")
            print(f"| {name} | {theirs} | {ours[0]} | {ours[1]} |")
    print(f"\n{len(CASES)} cases, {disagreements} disagreements with the library in `reference` mode.")
    sys.exit(1 if disagreements else 0)


if __name__ == "__main__":
    main()
