#!/usr/bin/env python3
"""Makes the golden .opck files and MANIFEST.json beside this script; the same bytes each time.

    generate.py            writes them
    generate.py --check    compares with what is there; exit code 1 if anything differs
"""

import hashlib
import json
import os
import struct
import sys
import zlib

import deflate
from writer import TYPES, Tensor, build, make_prologue, plane_record, seal, sha256

made, manifest = {}, []


def noise(seed, count):
    return hashlib.shake_256(seed.encode()).digest(count)


def skewed(seed, count, values=64):
    """Bytes of which small ones are frequent."""
    data = noise(seed, 2 * count)
    return bytes(min(a, b) * values >> 8 for a, b in zip(data[::2], data[1::2]))


def weights(seed, count, dtype="F32", scale=0.05):
    """Numbers spread like the weights of a network, from sums of bytes."""
    data = noise(seed, 6 * count)
    numbers = [(sum(data[at:at + 6]) - 765) / 181 * scale for at in range(0, len(data), 6)]
    if dtype == "BF16":
        return b"".join(struct.pack("<f", number)[2:] for number in numbers)
    return struct.pack(f"<{count}{dict(F16='e', F32='f', F64='d')[dtype]}", *numbers)


def add(path, data, shows, **more):
    made[path] = data
    manifest.append({"path": path, "sha256": sha256(data), "shows": shows, **more})


def good(name, shows, tensors, files=None, unpacked=None, against=None, **options):
    data = build(tensors, files=files, **options)
    paths = [path for path, count in files or [] for _ in range(count)]
    more = {"tensors": {(f"{paths[number]}:" if paths else "") + tensor.name: sha256(tensor.data) for number, tensor in enumerate(tensors)}}
    if unpacked is not None:
        more["unpacked"] = {path: sha256(content) for path, content in unpacked.items()}
    if against:
        more["against"] = against
    add(f"good/{name}.opck", data, shows, **more)
    return data


def bad(name, code, shows, data, **more):
    assert name == code or name.startswith(code + "-"), name
    add(f"bad/{name}.opck", data, shows, code=code, **more)


def safetensors(tensors, padding=0, metadata=None):
    """The header with its length, and the file."""
    header, offset = ({"__metadata__": metadata} if metadata else {}), 0
    for tensor in tensors:
        header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, offset + len(tensor.data)]}
        offset += len(tensor.data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode() + b" " * padding
    start = struct.pack("<Q", len(text)) + text
    return start, start + b"".join(tensor.data for tensor in tensors)


def other_bytes(data):
    return Tensor("", "U8", [len(data)], data)


def make_good():
    elements = 40
    good("types", "every element type, two chunks each",
         [Tensor(f"t.{name}", name, [5, 8], noise(name, elements * bits // 8)) for name, (bits, _, _) in TYPES.items()], chunk_size=64)
    good("nothing", "no tensor at all", [])
    good("empty", "empty tensors, scalars and a tensor of one byte", [
        Tensor("none", "BF16", [0], b""), Tensor("no-rows", "F32", [0, 7], b""), Tensor("no-columns", "F4", [3, 0], b""),
        Tensor("scalar", "I64", [], struct.pack("<q", -5)), Tensor("scalar.f64", "F64", [], struct.pack("<d", 1.5)),
        Tensor("byte", "U8", [1], b"\xff"), Tensor("none.last", "U64", [1, 0, 1], b"")])
    text = b"It was the best of times, it was the worst of times. " * 40
    good("planes", "every way to store a plane", [
        Tensor("stored", "U8", [300], noise("stored", 300), "stored"),
        Tensor("constant", "U8", [4096], b"\x2a" * 4096, "constant"),
        Tensor("constant.f32", "F32", [1000], struct.pack("<f", 0.1) * 1000, "constant"),
        Tensor("packed-1", "BOOL", [501], bytes(b & 1 for b in noise("one", 501)), "packed-1"),
        Tensor("packed-2", "U8", [502], bytes((3, 99, 255)[b % 3] for b in noise("two", 502)), "packed-2"),
        Tensor("packed-4", "U8", [503], bytes(b % 16 * 5 for b in noise("four", 503)), "packed-4"),
        Tensor("packed-4.few", "U8", [64], bytes(b % 2 for b in noise("few", 64)), "packed-4"),
        Tensor("huffman-1", "U8", [2000], skewed("h1", 2000), "huffman-1"),
        Tensor("huffman-4", "U8", [2003], skewed("h4", 2003), "huffman-4"),
        Tensor("matches-1", "U8", [len(text)], text, "matches-1"),
        Tensor("matches-4", "U8", [len(text) - 1], text[1:], "matches-4"),
        Tensor("bf16", "BF16", [64, 30], weights("bf16", 1920, "BF16"), ["stored", "huffman-4"]),
        Tensor("f32", "F32", [50, 20], weights("f32", 1000), ["stored", "stored", "stored", "huffman-1"]),
        Tensor("i64", "I64", [70], struct.pack("<70q", *range(-35, 35)), ["stored", "packed-1"] + ["packed-2"] * 6)])
    letters = bytes(range(97, 123))
    often = [1, 1]
    while len(often) < 15:
        often.append(often[-1] + often[-2])
    rare = b"".join(bytes([symbol]) * count for symbol, count in enumerate(often))
    good("streams", "DEFLATE streams of every shape that zlib reads", [
        Tensor("sixteen", "U8", [4001], skewed("s16", 4001, 30), "huffman-16"),
        Tensor("two", "U8", [401], skewed("s2", 401, 8), "short-2"),
        Tensor("three", "U8", [1000], skewed("s3", 1000, 90), "short-3"),
        Tensor("nothing-shared", "U8", [1600], skewed("apart", 1600, 16), "apart-4"),
        Tensor("fixed", "U8", [1300], letters * 50, "fixed-1"),
        Tensor("fixed.four", "U8", [1300], letters * 50, "fixed-4"),
        Tensor("blocks", "U8", [1500], (b"stored" * 84)[:500] + skewed("b", 500, 20) + letters[:20] * 25, "blocks"),
        Tensor("long-codes", "U8", [len(rare)], rare, "huffman-1"),
        Tensor("longest-match", "U8", [4096], b"ab" * 2048, "matches-1")])
    good("chunks", "many short chunks, the last one of each tensor shorter", [
        Tensor("a", "F32", [300], weights("a", 300)), Tensor("b", "BF16", [7, 31], weights("b", 217, "BF16")),
        Tensor("c", "U16", [96], noise("c", 192)), Tensor("d", "F64", [25], weights("d", 25, "F64"))], chunk_size=192)
    good("large-chunks", "chunks of the usual size, 524,288 bytes, and of the largest count of zeros", [
        Tensor("zeros", "F32", [330_000], bytes(1_320_000)), Tensor("ones", "U8", [524_288], b"\1" * 524_288),
        Tensor("both", "U8", [600_000], bytes(524_288) + b"\3" * 75_712)], chunk_size=524_288)
    good("largest-chunks", "a chunk of the largest size, 1,048,576 bytes", [Tensor("zeros", "I16", [600_000], bytes(1_200_000))],
         chunk_size=1_048_576)
    names = ["", " ", "ü", "日本語", "a/b/../c", "\"quoted\"", "line\nbreak", "tab\tand\\backslash", "𝕏", "__metadata__", "null", "a:b", "\u202e",
             "\u0001", "e\u0301", "x" * 300]
    good("names", "names that are easily broken", [Tensor(name, "U8", [3], noise("name" + name, 3)) for name in names],
         metadata={"ключ \"\n": ["ü", "\\", "\u0001", "𝕏"]})
    bits = [0, 0x80000000, 1, 0x80000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000, 0x7F800001,
            0x7FABCDEF, 0xFFFFFFFF, 0x3F800000, 0xBF800000]
    good("floats", "NaN payloads, -0, subnormals and infinities", [
        Tensor("f32", "F32", [16], struct.pack("<16I", *bits)),
        Tensor("bf16", "BF16", [16], b"".join(struct.pack("<H", value >> 16) for value in bits)),
        Tensor("f16", "F16", [16], struct.pack("<16H", 0, 0x8000, 1, 0x8001, 0x3FF, 0x400, 0x7BFF, 0x7C00, 0xFC00, 0x7E00, 0xFE00, 0x7C01,
                                             0x7D55, 0xFFFF, 0x3C00, 0xBC00)),
        Tensor("f64", "F64", [16], struct.pack("<16Q", *(value << 32 | value for value in bits))),
        Tensor("c64", "C64", [8], struct.pack("<16I", *reversed(bits)))])
    training = [
        Tensor("model.layers.0.self_attn.q_proj.w1", "F32", [16, 24], weights("w1", 384)),
        Tensor("model.layers.0.self_attn.q_proj.w2", "F32", [48, 16], weights("w2", 768)),
        Tensor("model.layers.0.self_attn.q_proj.z", "F32", [24], weights("z", 24, scale=1)),
        Tensor("model.layers.0.self_attn.q_proj.w1.m", "F32", [16, 24], weights("m", 384, scale=1e-4)),
        Tensor("model.layers.0.self_attn.q_proj.w1.v", "F32", [16, 24], bytes(1536)),
        Tensor("order", "I64", [100], struct.pack("<100q", *(value * 37 % 100 for value in range(100)))),
        Tensor("losses", "F64", [12], struct.pack("<12d", *(4 - step / 8 for step in range(12)))),
        Tensor("step", "I64", [], struct.pack("<q", 12))]
    about = {"schema": "example.training/1", "step": 12, "finished": False, "note": None,
             "configuration": {"method": "op-lora", "rank": 2, "learningRate": 1e-3, "betas": [0.9, 0.999], "seed": -9223372036854775808},
             "base": {"name": "tiny", "sha256": sha256(b"tiny")}, "largest": 9223372036854775807}
    good("training", "a training checkpoint with metadata", training, kind="training", metadata=about, chunk_size=524_288)
    good("no-hashes", "the same without SHA-256 of tensors", training, kind="training", metadata=about, chunk_size=524_288, hashes=False)
    good("optional-features", "features of the kind that anyone may ignore", [Tensor("w", "U8", [3], b"abc")],
         prologue=make_prologue(optional=0x80000001))

    model = [Tensor("embed", "BF16", [32, 24], weights("embed", 768, "BF16")), Tensor("norm", "F32", [24], weights("norm", 24, scale=1)),
             Tensor("none", "F16", [0, 4], b"")]
    start, whole = safetensors(model, padding=3, metadata={"format": "pt"})
    single = good("file", "a pack of one safetensors file", [other_bytes(start)] + model, kind="file", files=[("model.safetensors", 4)],
                  unpacked={"model.safetensors": whole}, chunk_size=524_288, hashes=False)
    readme, broken = "# Modèle\n".encode() * 30, struct.pack("<Q", 1 << 40) + b"{not safetensors"
    shard_start, shard = safetensors([Tensor("w", "F32", [6, 6], weights("shard", 36))], padding=0)
    assert len(shard_start) % 8, "the padding is to be odd"
    files = [("README.md", 1), ("broken.safetensors", 1), ("empty", 0), ("line\nbreak \"ü\".txt", 1), ("nested/deeper/model.safetensors", 4),
             ("nested/deeper/shard.safetensors", 2), ("nothing/", 0)]
    contents = {"README.md": readme, "broken.safetensors": broken, "empty": b"", "line\nbreak \"ü\".txt": b"\0\1\2",
                "nested/deeper/model.safetensors": whole, "nested/deeper/shard.safetensors": shard, "nothing/": b""}
    packed = [other_bytes(readme), other_bytes(broken), other_bytes(b"\0\1\2"), other_bytes(start)] + model + [
        other_bytes(shard_start), Tensor("w", "F32", [6, 6], weights("shard", 36))]
    for name, hashes in (("folder", False), ("folder-hashed", True)):
        good(name, "a pack of a folder" + (" with SHA-256 of tensors" if hashes else ""), packed, kind="folder", files=files, unpacked=contents,
             chunk_size=1024, hashes=hashes)
    good("folder-empty", "a pack of a folder with nothing in it", [], kind="folder", files=[], unpacked={})

    def near(tensor, seed):
        step = tensor.width
        moved = b"".join(((int.from_bytes(tensor.data[at:at + step], "little") + delta % 5 - 2) % (1 << 8 * step)).to_bytes(step, "little")
                         for at, delta in zip(range(0, len(tensor.data), step), noise(seed, len(tensor.data))))
        return Tensor(tensor.name, tensor.dtype, tensor.shape, moved, base=(tensor.name, tensor.data))

    base = [Tensor("embed", "BF16", [32, 24], weights("embed", 768, "BF16")), Tensor("norm", "F32", [96], weights("norm", 96)),
            Tensor("same", "F64", [40], weights("same", 40, "F64")), Tensor("i8", "I8", [200], noise("i8", 200)),
            Tensor("u64", "U64", [64], noise("u64", 512)), Tensor("far", "U16", [300], noise("far", 600))]
    _, base_file = safetensors(base)
    _, other_file = safetensors([near(tensor, "other") for tensor in base])
    _, small_file = safetensors(base[1:])
    for name, data, shows in (("base", base_file, "the base of the differences"), ("other", other_file, "tensors of the same names and other bytes"),
                              ("small", small_file, "the base without one of its tensors")):
        add(f"bases/{name}.safetensors", data, shows)
    add("bases/base.opck", build(base, chunk_size=524_288), "the base of the differences, as a checkpoint")
    tuned = [near(tensor, "near") for tensor in base[:5]]
    tuned[2] = Tensor("same", "F64", [40], base[2].data, base=("same", base[2].data))
    tuned += [Tensor("far", "U16", [300], noise("new", 600)), Tensor("added", "F32", [8], weights("added", 8))]
    tuned_start, tuned_file = safetensors(tuned, padding=5)
    for name, against in (("differences-file", "bases/base.safetensors"), ("differences-file-hashed", "bases/base.opck")):
        data = good(name, f"a pack of a file as differences to {against[6:]}", [other_bytes(tuned_start)] + tuned, kind="file",
                    files=[("tuned.safetensors", 8)], unpacked={"tuned.safetensors": tuned_file}, against=against, chunk_size=512,
                    hashes=name.endswith("hashed"))
        assert data.count(b"\"base\":") == 5
    partly = Tensor("embed", "BF16", [32, 24], tuned[0].data[:512] + noise("partly", 1024), base=("embed", base[0].data))
    good("differences-checkpoint", "a checkpoint with chunks of differences and others in one tensor", [partly] + tuned[1:], kind="training",
         metadata={"step": 3}, against="bases/base.opck", chunk_size=512)
    return single, packed, files, tuned, tuned_start


def make_bad(single, packed, files, tuned, tuned_start):
    w = Tensor("w", "BF16", [3], b"\x80\x3f\x00\xc0\xc0\x3f")
    x = Tensor("x", "F32", [40], weights("x", 40))
    two = [w, x]
    fine = build(two, chunk_size=64)

    def put(data, at, value):
        return data[:at] + value + data[at + len(value):]

    bad("not-opck", "not-opck", "a text", b"These are not the bytes of a checkpoint.\n" * 4)
    bad("not-opck-safetensors", "not-opck", "a safetensors file under the wrong name", made["bases/small.safetensors"])
    bad("magic-damaged", "magic-damaged", "CR LF turned into LF", fine.replace(b"\r\n", b"\n"))
    bad("magic-damaged-bit", "magic-damaged", "the high bits stripped", bytes(byte & 127 for byte in fine))
    bad("magic-damaged-utf8", "magic-damaged", "taken for Latin-1 and written as UTF-8", fine.decode("latin-1").encode())
    bad("file-too-short", "file-too-short", "nothing at all", b"")
    bad("file-too-short-prologue", "file-too-short", "half a prologue", fine[:20])
    bad("file-too-short-trailer", "file-too-short", "no room for a trailer", fine[:100])
    bad("prologue-damaged", "prologue-damaged", "a wrong CRC-32", put(fine, 12, b"\1"))
    bad("version-unsupported", "version-unsupported", "version 2", build(two, prologue=make_prologue(version=2)))
    bad("feature-unsupported", "feature-unsupported", "a feature that readers must know", build(two, prologue=make_prologue(read=8)))
    bad("feature-blocks-rewriting", "feature-blocks-rewriting", "a feature that writers must know; reading is allowed",
        build(two, prologue=make_prologue(write=1)), operation="rewrite")
    bad("reserved-not-zero", "reserved-not-zero", "in the prologue", build(two, prologue=make_prologue(reserved=1)))
    bad("reserved-not-zero-row", "reserved-not-zero", "in the chunk table", build(two, on_row=lambda row: row[:5] + [1]))
    bad("trailer-missing", "trailer-missing", "cut short by a byte", fine[:-1])
    bad("trailer-missing-appended", "trailer-missing", "a line end appended", fine + b"\n")
    bad("trailer-invalid", "trailer-invalid", "another length of the file", build(two, lengths=lambda f: f[:3] + [f[3] + 1]))
    bad("trailer-invalid-sum", "trailer-invalid", "lengths that do not add up", build(two, lengths=lambda f: [f[0] + 1] + f[1:]))
    bad("trailer-invalid-huge", "trailer-invalid", "an offset beyond 63 bits", build(two, lengths=lambda f: [(1 << 64) - 16] + f[1:]))
    bad("trailer-invalid-spliced", "trailer-invalid", "a file appended to itself", fine + fine)
    bad("footer-damaged", "footer-damaged", "a letter changed", fine.replace(b'"kind":"test"', b'"kind":"tesu"'))

    def text(name, code, shows, old, new):
        def change(text):
            assert text.count(old) >= 1, name
            return text.replace(old, new)
        bad(name, code, shows, build(two, on_text=change))

    text("footer-syntax", "footer-syntax", "a comma too many", b'"metadata":{}', b'"metadata":{},')
    text("footer-syntax-duplicate", "footer-syntax", "a key twice", b'"metadata":{}', b'"metadata":{"a":1,"a":1}')
    text("footer-syntax-nan", "footer-syntax", "NaN", b'"metadata":{}', b'"metadata":{"a":NaN}')
    text("footer-syntax-utf8", "footer-syntax", "not UTF-8", b'"metadata":{}', b'"metadata":{"a":"\xff"}')
    text("footer-syntax-deep", "footer-syntax", "nested too deep", b'"metadata":{}', b'"metadata":{"a":' + b"[" * 64 + b"]" * 64 + b"}")
    text("footer-field", "footer-field", "a member that version 1 does not have", b'"metadata":{}', b'"metadata":{},"more":1')
    text("footer-field-missing", "footer-field", "no metadata", b'"metadata":{},', b"")
    text("footer-field-chunk-size", "footer-field", "a chunk size of 100", b'"chunkSize":4096', b'"chunkSize":100')
    text("footer-field-hash", "footer-field", "a hash in capitals", sha256(w.data).encode(), sha256(w.data).upper().encode())
    text("footer-field-version", "footer-field", "another version than the prologue's", b'"version":1', b'"version":2')
    text("kind-invalid", "kind-invalid", "capitals", b'"kind":"test"', b'"kind":"Test"')
    text("name-invalid", "name-invalid", "a NUL", b'"name":"w"', b'"name":"w\\u0000"')
    text("name-duplicate", "name-duplicate", "a name twice", b'"name":"x"', b'"name":"w"')
    text("dtype-unknown", "dtype-unknown", "F12", b'"dtype":"BF16"', b'"dtype":"F12"')
    text("shape-invalid", "shape-invalid", "a negative dimension", b'"shape":[3]', b'"shape":[-3]')
    text("shape-invalid-overflow", "shape-invalid", "more elements than can be counted", b'"shape":[3]',
         b'"shape":[4611686018427387904,4611686018427387904]')
    text("shape-invalid-real", "shape-invalid", "a dimension with a fraction", b'"shape":[3]', b'"shape":[3.0]')
    text("limit-rank", "limit-rank", "33 dimensions", b'"shape":[3]', b'"shape":[' + b",".join([b"1"] * 32 + [b"3"]) + b"]")
    text("limit-raw-bytes", "limit-raw-bytes", "32 TiB of tensors", b'"shape":[3]', b'"shape":[17592186044416]')
    text("chunk-range", "chunk-range", "fewer chunks than the tensors need", b'"chunkSize":4096', b'"chunkSize":64')
    bad("shape-invalid-bits", "shape-invalid", "a byte left unfilled",
        build([Tensor("w", "F4", [4], b"ab")], on_text=lambda text: text.replace(b'"shape":[4]', b'"shape":[3]')))
    bad("name-duplicate-unicode", "name-duplicate", "the same letter written in two ways",
        build([Tensor("\u00e9", "U8", [1], b"a"), Tensor("e\u0301", "U8", [1], b"b")]))
    bad("chunk-range-more", "chunk-range", "a chunk that no tensor owns",
        build(two, on_footer=lambda footer: footer["tensors"].pop()))

    def path(name, shows, new, kind="folder", code="path-invalid"):
        bad(name, code, shows, build([other_bytes(b"abc")], kind=kind, files=[(new, 1)]))

    path("path-invalid", "out of the folder", "../evil")
    path("path-invalid-absolute", "absolute", "/etc/evil")
    path("path-invalid-inside", "out of the folder, further in", "a/../../evil")
    path("path-invalid-double", "an empty part", "a//b")
    path("path-invalid-single", "a pack of one file in a folder", "a/b", kind="file")
    bad("path-invalid-duplicate", "path-invalid", "a path twice",
        build([other_bytes(b"abc"), Tensor("w", "U8", [1], b"a")], kind="folder", files=[("a", 1), ("a", 1)]))
    bad("footer-field-files", "footer-field", "tensors of no file",
        build([other_bytes(b"abc"), w], kind="folder", files=[("a", 1)]))
    bad("footer-field-no-files", "footer-field", "a pack without its files", build(two, kind="folder"))
    path("footer-field-folder", "a folder with bytes", "a/", code="footer-field")

    def huge(name, code, shows, position, value):
        bad(name, code, shows, build(two, lengths=lambda fields: fields[:position] + [value] + fields[position + 1:]))

    huge("limit-footer", "limit-footer", "a text of 256 MiB and a byte", 1, (1 << 28) + 1)
    huge("limit-chunks", "limit-chunks", "16,777,217 chunks", 2, (1 << 24) + 1)
    head = b'{"format":"opck","version":1,"kind":"test","chunkSize":64,"metadata":{},"tensors":['
    many = seal(make_prologue(), b"", head + b",".join([b"0"] * ((1 << 20) + 1)) + b"]}", [])
    add("bad/limit-tensors.opck.gz", gzip(many), "1,048,577 tensors; compressed", code="limit-tensors", size=len(many))

    bad("chunk-length", "chunk-length", "a chunk that would begin inside the one before", build(two, on_row=lambda row: [row[0] - 1] + row[1:]))
    bad("chunk-length-gap", "chunk-length", "bytes between the last chunk and the footer", build(two, on_body=lambda body: body + bytes(8)))
    bad("chunk-length-short", "chunk-length", "a chunk of 39 bytes", build(two, on_row=lambda row: [39] + row[1:]))
    bad("chunk-codec", "chunk-codec", "another arrangement than the type's", build(two, on_row=lambda row: row[:3] + [1] + row[4:]))
    bad("chunk-codec-difference", "chunk-codec", "differences in a tensor without a base", build(two, on_row=lambda row: row[:3] + [3] + row[4:]))
    bad("chunk-codec-width", "chunk-codec", "another width than the type's", build(two, on_row=lambda row: row[:4] + [1] + row[5:]))
    header = lambda change: build(two, on_header=change)
    bad("chunk-header", "chunk-header", "another number of the tensor",
        header(lambda fields, descriptor: (fields[:2] + [fields[2] + 1] + fields[3:], descriptor)))
    bad("chunk-header-index", "chunk-header", "another place in the tensor",
        header(lambda fields, descriptor: (fields[:3] + [7] + fields[4:], descriptor)))
    bad("chunk-header-descriptor", "chunk-header", "another name in the descriptor",
        header(lambda fields, descriptor: (fields, descriptor[:2] + b"q" + descriptor[3:])))
    bad("chunk-header-reserved", "chunk-header", "a reserved field",
        header(lambda fields, descriptor: (fields[:6] + [1] + fields[7:], descriptor)))
    bad("chunk-checksum", "chunk-checksum", "a bit of a plane changed", put(fine, 32 + 70, bytes([fine[32 + 70] ^ 4])))
    bad("chunk-checksum-swapped", "chunk-checksum", "two chunks in each other's place",
        build([Tensor("a", "U8", [4], b"abcd"), Tensor("b", "U8", [4], b"efgh")],
              on_body=lambda body: body[len(body) // 2:] + body[:len(body) // 2]))

    def plane(name, code, shows, records, size=64):
        tensor = Tensor("w", "U8", [size], skewed("plane", size, 4))
        bad(name, code, shows, build([tensor], on_planes=lambda _: records(tensor.data)))

    record = plane_record
    stream = lambda data: deflate.streams([data])[0]
    plane("plane-invalid", "plane-invalid", "a method that version 1 does not have", lambda data: record(5, 0, data))
    plane("plane-invalid-trailing", "plane-invalid", "bytes after the last plane", lambda data: record(0, 0, data) + b"\0")
    plane("plane-invalid-missing", "plane-invalid", "a length beyond the chunk", lambda data: record(0, 0, data)[:-1])
    plane("plane-invalid-bits", "plane-invalid", "three bits a number", lambda data: record(3, 3, bytes(32)))
    plane("plane-invalid-rest", "plane-invalid", "a bit after the last number", lambda data: record(3, 1, b"\0\1" + bytes(7) + b"\x08"), size=59)
    plane("plane-invalid-streams", "plane-invalid", "seventeen streams", lambda data: record(2, 17, bytes(63)))
    plane("plane-invalid-no-streams", "plane-invalid", "no stream", lambda data: record(2, 0, stream(data)))
    plane("plane-invalid-lengths", "plane-invalid", "streams longer than the plane",
          lambda data: record(2, 2, b"\0\0\xff\xff\xff\xff" + bytes(20)))
    plane("plane-invalid-shared", "plane-invalid", "shared bytes beyond the plane", lambda data: record(2, 2, b"\xff\xff" + bytes(30)))
    plane("plane-invalid-larger", "plane-invalid", "DEFLATE that saves nothing", lambda data: record(2, 1, stream(data).ljust(64, b"\0")))
    plane("plane-invalid-constant", "plane-invalid", "a constant of two bytes", lambda data: record(1, 0, b"ab"))
    plane("plane-stream", "plane-stream", "a block type that DEFLATE does not have", lambda data: record(2, 1, b"\x07" + bytes(20)))
    plane("plane-stream-short", "plane-stream", "a stream that ends early", lambda data: record(2, 1, stream(data[:-1])))
    plane("plane-stream-long", "plane-stream", "a stream of a byte too many", lambda data: record(2, 1, stream(data + data[:1])))
    plane("plane-stream-rest", "plane-stream", "bytes after the stream", lambda data: record(2, 1, stream(data) + b"\0"))
    plane("plane-stream-cut", "plane-stream", "a stream without its end", lambda data: record(2, 1, stream(data)[:-1]))
    plane("chunk-content", "chunk-content", "other bytes than were meant", lambda data: record(0, 0, data[:-1] + b"\xff"))
    bad("tensor-hash", "tensor-hash", "another SHA-256",
        build(two, on_footer=lambda footer: footer["tensors"][1].update(sha256=sha256(b"other"))))

    pack = build([other_bytes(tuned_start)] + tuned, kind="file", files=[("tuned.safetensors", 8)], chunk_size=512, hashes=False)
    bad("base-needed", "base-needed", "a pack of differences, unpacked without the base", pack, operation="unpack")
    bad("base-missing", "base-missing", "unpacked against a base without one of the tensors", pack, operation="unpack",
        against="bases/small.safetensors")
    bad("base-hash", "base-hash", "unpacked against another base", pack, operation="unpack", against="bases/other.safetensors")


def gzip(data):
    """RFC 1952, without name and time."""
    stream = deflate.streams([data], matching=True)[0]
    assert zlib.decompress(stream, -15) == data
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + stream + struct.pack("<2I", zlib.crc32(data), len(data))


def main():
    folder = os.path.dirname(os.path.abspath(__file__))
    make_bad(*make_good())
    made["MANIFEST.json"] = (json.dumps({"schema": "opck.golden/1", "files": manifest}, ensure_ascii=False, indent=1) + "\n").encode()
    there = {os.path.relpath(os.path.join(place, name), folder) for part in ("good", "bad", "bases")
             for place, _, names in os.walk(os.path.join(folder, part)) for name in names}
    different = sorted(there - set(made))
    for path, data in made.items():
        place = os.path.join(folder, path)
        if "--check" in sys.argv[1:]:
            if not os.path.exists(place) or open(place, "rb").read() != data:
                different.append(path)
        else:
            os.makedirs(os.path.dirname(place), exist_ok=True)
            with open(place, "wb") as file:
                file.write(data)
    for path in different:
        print(f"{path}: differs or is not one of the corpus")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
