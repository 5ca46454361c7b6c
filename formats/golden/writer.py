"""A writer of .opck files that does what it is told, right or wrong; it shares no code with any other."""

import hashlib
import json
import struct
import zlib

import deflate

NO_FILE = 0xFFFFFFFF
# Type: bits, codec, width.
TYPES = {"BOOL": (8, 1, 1), "F4": (4, 1, 1), "F6_E2M3": (6, 1, 1), "F6_E3M2": (6, 1, 1), "U8": (8, 1, 1), "I8": (8, 1, 1),
         "F8_E5M2": (8, 1, 1), "F8_E4M3": (8, 1, 1), "F8_E5M2FNUZ": (8, 1, 1), "F8_E4M3FNUZ": (8, 1, 1), "F8_E8M0": (8, 1, 1),
         "I16": (16, 1, 2), "U16": (16, 1, 2), "F16": (16, 2, 2), "BF16": (16, 2, 2), "I32": (32, 1, 4), "U32": (32, 1, 4),
         "F32": (32, 2, 4), "C64": (64, 2, 4), "F64": (64, 2, 8), "I64": (64, 1, 8), "U64": (64, 1, 8)}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Tensor:
    """`coding` says how planes are stored: one word for all, or one for each plane."""

    def __init__(self, name, dtype, shape, data, coding="auto", base=None):
        self.name, self.dtype, self.shape, self.data, self.coding, self.base = name, dtype, list(shape), bytes(data), coding, base
        self.bits, self.codec, self.width = TYPES[dtype]
        elements = 1
        for size in shape:
            elements *= size
        assert len(self.data) * 8 == elements * self.bits, name

    def descriptor(self, file, path):
        name, dtype, path = self.name.encode(), self.dtype.encode(), path.encode()
        return (struct.pack("<H", len(name)) + name + bytes([len(dtype)]) + dtype
                + struct.pack(f"<B{len(self.shape)}Q", len(self.shape), *self.shape)
                + struct.pack("<IH", NO_FILE if file is None else file, len(path)) + path)


def split(raw, width, codec, base=b""):
    """The planes of a chunk."""
    mask, top, values = (1 << 8 * width) - 1, 8 * width - 1, []
    for at in range(0, len(raw), width):
        value = int.from_bytes(raw[at:at + width], "little")
        if codec == 2:
            value = (value << 1 | value >> top) & mask
        elif codec == 3:
            value = (value - int.from_bytes(base[at:at + width], "little")) & mask
            value = (value << 1 & mask) ^ (mask if value >> top else 0)
        values.append(value)
    return [bytes(value >> 8 * plane & 255 for value in values) for plane in range(width)]


def pack_numbers(plane, bits):
    values = sorted(set(plane))
    assert len(values) <= 1 << bits
    table = values + [values[-1]] * ((1 << bits) - len(values))
    number = 0
    for place, byte in enumerate(plane):
        number |= values.index(byte) << place * bits
    return bytes(table) + number.to_bytes((len(plane) * bits + 7) // 8, "little")


def cut(plane, count):
    return [plane[len(plane) * part // count:len(plane) * (part + 1) // count] for part in range(count)]


def join_streams(streams, shared=None):
    """A payload of several streams: their common beginning, the lengths of what follows, what follows."""
    if len(streams) == 1:
        return streams[0]
    common = 0
    while all(len(stream) > common + 1 and stream[common] == streams[0][common] for stream in streams):
        common += 1
    common = common if shared is None else shared
    parts = [stream[common:] for stream in streams]
    return (struct.pack("<H", common) + streams[0][:common] + b"".join(struct.pack("<I", len(part)) for part in parts[:-1])
            + b"".join(parts))


def encode(plane, coding):
    """Method, number and payload of a plane."""
    name, _, rest = coding.partition("-")
    if name == "stored":
        return 0, 0, plane
    if name == "constant":
        assert len(set(plane)) == 1
        return 1, 0, plane[:1]
    if name == "packed":
        return 3, int(rest), pack_numbers(plane, int(rest))
    if name == "huffman":
        count = int(rest)
        return 2, count, join_streams(deflate.streams(cut(plane, count)))
    if name == "short":
        return 2, int(rest), join_streams(deflate.streams(cut(plane, int(rest)), longest=11))
    if name == "apart":
        return 2, int(rest), join_streams(deflate.streams(cut(plane, int(rest))), shared=0)
    if name == "matches":
        return 2, int(rest), join_streams(deflate.streams(cut(plane, int(rest)), matching=True))
    if name == "fixed":
        return 2, int(rest), join_streams(deflate.streams(cut(plane, int(rest)), matching=True, fixed=True))
    if name == "blocks":
        return 2, 1, deflate.blocks(plane)
    assert coding == "auto", coding
    kinds = len(set(plane))
    tries = [encode(plane, "stored")]
    if kinds == 1:
        tries.append(encode(plane, "constant"))
    elif len(plane) >= 32:
        tries += [encode(plane, f"packed-{bits}") for bits in (1, 2, 4) if kinds <= 1 << bits]
        tries += [encode(plane, "huffman-4"), encode(plane, "matches-1")]
    return min(tries, key=lambda made: len(made[2]))


def plane_record(method, number, payload):
    return struct.pack("<I", len(payload) | number << 24 | method << 29) + payload


def planes(raw, tensor, codec, base):
    codings = [tensor.coding] * tensor.width if isinstance(tensor.coding, str) else tensor.coding
    return b"".join(plane_record(*encode(plane, coding)) for plane, coding in zip(split(raw, tensor.width, codec, base), codings))


def seal(prologue, body, text, rows, lengths=None, chunks=None):
    """Text, table and trailer after the chunks, with the hash that fits them."""
    table = b"".join(rows)
    offset, count = len(prologue) + len(body), len(rows) if chunks is None else chunks
    fields = [offset, len(text), count, offset + len(text) + len(table) + 72]
    packed = struct.pack("<4Q", *(lengths(fields) if lengths else fields))
    digest = hashlib.sha256(prologue + text + table + packed).digest()
    return prologue + body + text + table + packed + digest + b"\x89OPCKEND"


def make_prologue(version=1, read=0, write=0, optional=0, reserved=0):
    start = b"\x89OPCK\r\n\x1a\n\0" + struct.pack("<H4I", version, read, write, optional, reserved)
    return start + struct.pack("<I", zlib.crc32(start))


def build(tensors, kind="test", metadata=None, chunk_size=4096, hashes=True, files=None, prologue=None,
          on_planes=None, on_header=None, on_chunk=None, on_row=None, on_body=None, on_footer=None, on_text=None, **sealing):
    """The bytes of a file. `files` are pairs of a path and how many tensors are its own; what begins with `on_` may change a part."""
    prologue = prologue or make_prologue()
    owners = [(number, path, index == 0) for number, (path, count) in enumerate(files or []) for index in range(count)]
    body, rows, entries = b"", [], []
    for number, tensor in enumerate(tensors):
        file, path, opens = owners[number] if number < len(owners) else (None, "", False)
        entry = {"name": tensor.name, "dtype": tensor.dtype, "shape": tensor.shape}
        if tensor.base:
            entry["base"] = {"name": tensor.base[0], "sha256": sha256(tensor.base[1])}
        if hashes:
            entry["sha256"] = sha256(tensor.data)
        entries.append(entry)
        for index, start in enumerate(range(0, len(tensor.data), chunk_size)):
            raw = tensor.data[start:start + chunk_size]
            codec, base = tensor.codec, b""
            stored_planes = planes(raw, tensor, codec, base)
            if tensor.base:
                differences = planes(raw, tensor, 3, tensor.base[1][start:start + chunk_size])
                if len(differences) < len(stored_planes):
                    codec, stored_planes = 3, differences
            if on_planes:
                stored_planes = on_planes(stored_planes)
            descriptor = tensor.descriptor(file, path if opens else "") if index == 0 else b""
            fields = [32 + len(descriptor) + len(stored_planes) + 4, len(raw), number, index, codec, tensor.width, 0, len(descriptor),
                      zlib.crc32(raw)]
            if on_header:
                fields, descriptor = on_header(fields, descriptor)
            chunk = b"\x8bCHK" + struct.pack("<4I2BH2I", *fields) + descriptor + stored_planes
            chunk += struct.pack("<I", zlib.crc32(chunk))
            row = [len(chunk), zlib.crc32(chunk[:-4]), fields[8], codec, tensor.width, 0]
            rows.append(struct.pack("<3I2BH", *(on_row(row) if on_row else row)))
            body += on_chunk(chunk) if on_chunk else chunk
    if on_body:
        body = on_body(body)
    footer = {"format": "opck", "version": 1, "kind": kind, "chunkSize": chunk_size, "metadata": metadata or {}}
    if files is not None:
        footer["files"] = [{"path": path, "tensors": count} for path, count in files]
    footer["tensors"] = entries
    if on_footer:
        on_footer(footer)
    text = json.dumps(footer, ensure_ascii=False, separators=(",", ":")).encode()
    return seal(prologue, body, on_text(text) if on_text else text, rows, **sealing)
