#!/usr/bin/env python3
"""Reference decoder of .opck files, written from formats/native-checkpoint.md with the standard library alone.

    opck.py check FILE...                 one line for each file: "PATH: ok" or "PATH: CODE: message"
    opck.py list FILE                     kind, metadata and tensors
    opck.py extract FILE --out OUT        the tensors as a safetensors file
    opck.py unpack FILE --out OUT         the packed file, or the packed folder

The last two take --against BASE, a safetensors or .opck file (or several), for tensors that are stored as differences.

Exit codes: 0 all is well, 1 a checked file is bad, 64 wrong usage, 65 bad input, 73 the output exists, 74 input/output failed.
It aims at being plainly right, not fast; the chapters named in comments are those of the specification.
"""

import argparse
import array
import hashlib
import json
import os
import shutil
import struct
import sys
import unicodedata
import zlib

MAGIC = b"\x89OPCK\r\n\x1a\n\0"
END_MAGIC = b"\x89OPCKEND"
MARKER = b"\x8bCHK"
PROLOGUE, TRAILER, ROW, CHUNK_HEADER, PLANE_HEADER = 32, 72, 16, 32, 4
DIFFERENCE, NO_FILE = 3, 0xFFFFFFFF
LIMIT_TEXT, LIMIT_TENSORS, LIMIT_CHUNKS, LIMIT_RANK, LIMIT_RAW = 1 << 28, 1 << 20, 1 << 24, 32, 1 << 44

# Chapter 5.1: type -> (bits, codec, width).
TYPES = {name: (8, 1, 1) for name in
         ("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E5M2FNUZ", "F8_E4M3FNUZ", "F8_E8M0")}
TYPES.update(F4=(4, 1, 1), F6_E2M3=(6, 1, 1), F6_E3M2=(6, 1, 1))
TYPES.update(I16=(16, 1, 2), U16=(16, 1, 2), I32=(32, 1, 4), U32=(32, 1, 4), I64=(64, 1, 8), U64=(64, 1, 8))
TYPES.update(F16=(16, 2, 2), BF16=(16, 2, 2), F32=(32, 2, 4), C64=(64, 2, 4), F64=(64, 2, 8))


class Fault(Exception):
    """A violation of the specification, with its code of chapter 9."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code


def need(condition, code, message):
    if not condition:
        raise Fault(code, message)


def strict_json(data):
    """Chapter 6: JSON without duplicate keys, NaN, wide integers, lone surrogates or deep nesting."""

    def pairs(items):
        members = {}
        for key, value in items:
            need(key not in members, "footer-syntax", f"the key {key!r} appears twice")
            need("\0" not in key, "footer-syntax", "a key holds a NUL")
            members[key] = value
        return members

    def integer(text):
        value = int(text) if len(text) <= 20 else 1 << 64
        need(-(1 << 63) <= value < 1 << 63, "footer-syntax", "an integer does not fit 64 bits")
        return value

    def constant(text):
        raise Fault("footer-syntax", f"{text} is not JSON")

    def depth(value, level):
        need(level <= 64, "footer-syntax", "it is nested too deep")
        if isinstance(value, dict):
            for key, member in value.items():
                key.encode("utf-8")
                depth(member, level + 1)
        elif isinstance(value, list):
            for element in value:
                depth(element, level + 1)
        elif isinstance(value, str):
            value.encode("utf-8")

    try:
        need(not data.startswith(b"\xef\xbb\xbf"), "footer-syntax", "it begins with a byte order mark")
        value = json.loads(data.decode("utf-8"), object_pairs_hook=pairs, parse_int=integer, parse_constant=constant)
        depth(value, 0)
        return value
    except (ValueError, RecursionError) as error:
        raise Fault("footer-syntax", f"the footer is not strict JSON ({error})") from None


def is_integer(value):
    return isinstance(value, int) and not isinstance(value, bool)


def members(value, keys, what, optional=()):
    need(isinstance(value, dict), "footer-field", f"{what} is not an object")
    need(set(keys) <= set(value) <= set(keys) | set(optional), "footer-field", f"{what} has not exactly the members {', '.join(keys)}")
    return value


def is_hash(value):
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def is_name(value):
    return len(value.encode()) <= 65535 and "\0" not in value


def is_path(value):
    """Chapter 6: the path of a packed file; that of an empty folder ends with a slash."""
    parts = value.split("/")
    if len(parts) > 1 and parts[-1] == "":
        parts.pop()
    return is_name(value) and all(part not in ("", ".", "..") for part in parts)


class Tensor:
    def __init__(self, entry, number, file):
        """`file` is the number and path of its packed file and whether it is the first tensor of it, or None."""
        members(entry, ("name", "dtype", "shape"), "an entry of the tensor table", ("base", "sha256"))
        self.number = number
        self.file, self.path, self.opens_file = file or (None, None, False)
        self.name = entry["name"]
        need(isinstance(self.name, str), "footer-field", "a name is not a string")
        need(is_name(self.name), "name-invalid", "a name is too long or holds a NUL")
        self.dtype = entry["dtype"]
        need(isinstance(self.dtype, str) and self.dtype in TYPES, "dtype-unknown", f"{self.name}: unknown type {self.dtype!r}")
        self.bits, self.codec, self.width = TYPES[self.dtype]
        self.shape = entry["shape"]
        need(isinstance(self.shape, list), "shape-invalid", f"{self.name}: the shape is not a list")
        need(len(self.shape) <= LIMIT_RANK, "limit-rank", f"{self.name}: too many dimensions")
        elements = 1
        for size in self.shape:
            need(is_integer(size) and size >= 0, "shape-invalid", f"{self.name}: a dimension is no integer from 0 up")
            elements *= size
            need(elements < 1 << 63, "shape-invalid", f"{self.name}: the shape overflows")
        need(elements * self.bits < 1 << 63 and elements * self.bits % 8 == 0, "shape-invalid",
             f"{self.name}: the shape overflows or leaves a byte unfilled")
        self.size = elements * self.bits // 8
        self.sha256 = entry.get("sha256")
        need("sha256" not in entry or is_hash(self.sha256), "footer-field", f"{self.name}: the hash is not 64 lower-case hexadecimal digits")
        self.base = entry.get("base")
        if "base" in entry:
            members(self.base, ("name", "sha256"), "a base")
            need(isinstance(self.base["name"], str) and is_name(self.base["name"]) and is_hash(self.base["sha256"]), "footer-field",
                 f"{self.name}: the base")

    def descriptor(self):
        """Chapter 4."""
        name, dtype, path = self.name.encode(), self.dtype.encode(), self.path.encode() if self.opens_file else b""
        return (struct.pack("<H", len(name)) + name + struct.pack("<B", len(dtype)) + dtype
                + struct.pack(f"<B{len(self.shape)}Q", len(self.shape), *self.shape)
                + struct.pack("<IH", NO_FILE if self.file is None else self.file, len(path)) + path)

    @property
    def label(self):
        return self.name if self.path is None else f"{self.path}:{self.name}"


class Checkpoint:
    """A file whose prologue, trailer, footer and chunk table have been checked."""

    def __init__(self, path):
        self.file = open(path, "rb")
        size = os.fstat(self.file.fileno()).st_size
        prologue = self.bytes(0, min(size, PROLOGUE))
        self.check_prologue(prologue)

        # Chapter 8.
        need(size >= PROLOGUE + TRAILER, "file-too-short", "there is no room for a trailer")
        trailer = self.bytes(size - TRAILER, TRAILER)
        need(trailer[64:] == END_MAGIC, "trailer-missing", "the file does not end with the end magic")
        offset, length, count, total = struct.unpack_from("<4Q", trailer)
        need(total == size, "trailer-invalid", "the trailer gives another length of the file")
        need(length <= LIMIT_TEXT, "limit-footer", "the footer text is too long")
        need(count <= LIMIT_CHUNKS, "limit-chunks", "there are too many chunks")
        need(offset >= PROLOGUE and offset + length + count * ROW + TRAILER == size, "trailer-invalid", "the lengths do not add up")
        text = self.bytes(offset, length)
        table = self.bytes(offset + length, count * ROW)
        need(hashlib.sha256(prologue + text + table + trailer[:32]).digest() == trailer[32:64], "footer-damaged",
             "the footer hash is wrong")
        self.read_text(text)
        self.read_table(table, offset)

    def bytes(self, offset, length):
        self.file.seek(offset)
        data = self.file.read(length)
        if len(data) != length:
            raise OSError("the file changed while it was read")
        return data

    @staticmethod
    def check_prologue(data):
        """Chapter 3."""
        need(data, "file-too-short", "the file is empty")
        if data[:len(MAGIC)] != MAGIC[:len(data)]:
            need(not any(data[at:at + 4] == b"OPCK" for at in (1, 2, 3)), "magic-damaged", "a transfer in text mode changed the file")
            raise Fault("not-opck", "this is not an .opck file")
        need(len(data) == PROLOGUE, "file-too-short", "the file ends inside its prologue")
        version, read_features, _, _, reserved, crc = struct.unpack_from("<H5I", data, 10)
        need(crc == zlib.crc32(data[:28]), "prologue-damaged", "the prologue's CRC-32 is wrong")
        need(version == 1, "version-unsupported", f"version {version}")
        need(read_features == 0, "feature-unsupported", f"features {read_features:#x}")
        need(reserved == 0, "reserved-not-zero", "prologue")

    def read_text(self, text):
        """Chapter 6."""
        footer = members(strict_json(text), ("format", "version", "kind", "chunkSize", "metadata", "tensors"), "the footer", ("files",))
        need(footer["format"] == "opck" and is_integer(footer["version"]) and footer["version"] == 1, "footer-field", "format or version")
        self.kind = footer["kind"]
        allowed = set("abcdefghijklmnopqrstuvwxyz0123456789.-")
        need(isinstance(self.kind, str) and 1 <= len(self.kind) <= 64 and set(self.kind) <= allowed, "kind-invalid", repr(self.kind))
        self.chunk_size = footer["chunkSize"]
        need(is_integer(self.chunk_size) and 64 <= self.chunk_size <= 1 << 20 and self.chunk_size % 64 == 0, "footer-field", "chunkSize")
        self.metadata = footer["metadata"]
        need(isinstance(self.metadata, dict), "footer-field", "metadata is not an object")
        need(isinstance(footer["tensors"], list), "footer-field", "tensors is not a list")
        need(len(footer["tensors"]) <= LIMIT_TENSORS, "limit-tensors", "there are too many tensors")
        self.files = None
        owners = self.read_files(footer)
        self.tensors = [Tensor(entry, number, owners[number] if owners else None) for number, entry in enumerate(footer["tensors"])]
        seen = set()
        for tensor in self.tensors:
            label = unicodedata.normalize("NFC", tensor.label)
            need(label not in seen, "name-duplicate", tensor.label)
            seen.add(label)
        need(sum(tensor.size for tensor in self.tensors) <= LIMIT_RAW, "limit-raw-bytes", "the tensors are too large")

    def read_files(self, footer):
        """Chapter 6: the packed files; for each tensor the number and path of its file and whether it is the first of it."""
        packed = self.kind in ("file", "folder")
        need(packed == ("files" in footer), "footer-field", "files")
        if not packed:
            return None
        files, owners = footer["files"], []
        need(isinstance(files, list) and len(files) <= LIMIT_TENSORS, "footer-field", "files")
        self.files = []
        for number, entry in enumerate(files):
            members(entry, ("path", "tensors"), "an entry of files")
            path, count = entry["path"], entry["tensors"]
            need(isinstance(path, str) and is_path(path), "path-invalid", "a path")
            same = unicodedata.normalize("NFC", path)
            need(same not in map(lambda other: unicodedata.normalize("NFC", other), self.files), "path-invalid", "two equal paths")
            need(is_integer(count), "footer-field", "tensors of a file")
            need(0 <= count <= len(footer["tensors"]) - len(owners), "footer-field", "tensors of a file")
            need(not path.endswith("/") or count == 0, "footer-field", "tensors of a folder")
            owners += [(number, path, index == 0) for index in range(count)]
            self.files.append(path)
        need(len(owners) == len(footer["tensors"]), "footer-field", "tensors of no file")
        need(self.kind == "folder" or (len(files) == 1 and "/" not in self.files[0]), "path-invalid", "a pack of one file")
        return owners

    def read_table(self, table, footer_offset):
        """Chapter 7."""
        self.rows, end, position = [], PROLOGUE, 0
        for tensor in self.tensors:
            tensor.first, tensor.count = len(self.rows), -(-tensor.size // self.chunk_size)
            need(tensor.first + tensor.count <= len(table) // ROW, "chunk-range", tensor.name)
            for index in range(tensor.count):
                stored, crc, raw_crc, codec, width, reserved = struct.unpack_from("<3I2BH", table, position)
                position += ROW
                need(reserved == 0, "reserved-not-zero", f"row {len(self.rows)}")
                need(CHUNK_HEADER + PLANE_HEADER + 4 <= stored <= footer_offset - end, "chunk-length", tensor.name)
                allowed = (tensor.codec,) if tensor.base is None else (tensor.codec, DIFFERENCE)
                need(codec in allowed and width == tensor.width, "chunk-codec", tensor.name)
                raw = min(self.chunk_size, tensor.size - index * self.chunk_size)
                self.rows.append((end, stored, raw, crc, codec, width, raw_crc))
                end += stored
        need(position == len(table), "chunk-range", "a chunk belongs to no tensor")
        need(end == footer_offset, "chunk-length", "before the footer")

    def chunks(self, tensor, base=None):
        """The raw bytes of a tensor, chunk by chunk; the hash is checked after the last. `base` is the bytes of its base.

        Without the base a chunk of differences is checked and gives nothing."""
        digest, whole = hashlib.sha256(), True
        for index in range(tensor.count):
            raw = self.chunk(tensor, index, base)
            whole = whole and raw is not None
            if raw is not None:
                digest.update(raw)
            yield raw
        need(not whole or tensor.sha256 in (None, digest.hexdigest()), "tensor-hash", tensor.name)

    def chunk(self, tensor, index, base=None):
        """Chapters 4 and 5."""
        offset, stored, raw_length, crc, codec, width, raw_crc = self.rows[tensor.first + index]
        where = f"{tensor.name}, chunk {index}"
        data = self.bytes(offset, stored)
        need(zlib.crc32(data[:-4]) == crc and struct.unpack("<I", data[-4:])[0] == crc, "chunk-checksum", where)
        descriptor = tensor.descriptor() if index == 0 else b""
        header = MARKER + struct.pack(
            "<4I2BH2I", stored, raw_length, tensor.number, index, codec, width, 0, len(descriptor), raw_crc) + descriptor
        need(data.startswith(header), "chunk-header", where)
        body, position, size = data[:-4], len(header), raw_length // width
        planes = []
        for _ in range(width):
            need(position + PLANE_HEADER <= len(body), "plane-invalid", where)
            word, = struct.unpack_from("<I", body, position)
            length, number, method = word & 0xFFFFFF, word >> 24 & 31, word >> 29
            position += PLANE_HEADER
            payload = body[position:position + length]
            position += length
            need(len(payload) == length, "plane-invalid", where)
            planes.append(read_plane(method, number, payload, size, where))
        need(position == len(body), "plane-invalid", where)
        if codec == 2:
            planes = unrotate(planes)
        raw = bytearray(raw_length)
        for k, plane in enumerate(planes):
            raw[k::width] = plane
        if codec == DIFFERENCE:
            if base is None:
                return None
            start = index * self.chunk_size
            raw = add_differences(raw, base[start:start + raw_length], width)
        need(zlib.crc32(raw) == raw_crc, "chunk-content", where)
        return bytes(raw)


def read_plane(method, number, payload, size, where):
    """Chapter 5.2: the bytes of one plane."""
    if method == 0:
        need(number == 0 and len(payload) == size, "plane-invalid", where)
        return payload
    if method == 1:
        need(number == 0 and len(payload) == 1, "plane-invalid", where)
        return payload * size
    if method == 2:
        need(1 <= number <= min(16, size) and 0 < len(payload) < size, "plane-invalid", where)
        return b"".join(inflate(stream, size * (i + 1) // number - size * i // number, where)
                        for i, stream in enumerate(cut(payload, number, where)))
    need(method == 3 and number in (1, 2, 4) and len(payload) == (1 << number) + (size * number + 7) // 8 < size, "plane-invalid", where)
    return unpack_numbers(payload, number, size, where)


def cut(payload, streams, where):
    """Chapter 5.3: the streams of a plane, each of the shared bytes and a part of its own."""
    if streams == 1:
        return [payload]
    need(len(payload) >= 2, "plane-invalid", where)
    shared = 2 + struct.unpack_from("<H", payload)[0]
    position = shared + 4 * (streams - 1)
    need(position <= len(payload), "plane-invalid", where)
    lengths = list(struct.unpack_from(f"<{streams - 1}I", payload, shared))
    lengths.append(len(payload) - position - sum(lengths))
    need(all(length > 0 for length in lengths), "plane-invalid", where)
    result = []
    for length in lengths:
        result.append(payload[2:shared] + payload[position:position + length])
        position += length
    return result


def inflate(payload, size, where):
    """Chapter 5.3: one raw DEFLATE stream that gives `size` bytes and ends with the payload."""
    decoder = zlib.decompressobj(-15)
    try:
        plane = decoder.decompress(payload, size + 1)
    except zlib.error as error:
        raise Fault("plane-stream", f"{where}: {error}") from None
    need(decoder.eof and not decoder.unused_data and not decoder.unconsumed_tail and len(plane) == size, "plane-stream", where)
    return plane


def unpack_numbers(payload, bits, size, where):
    """Chapter 5.2, method 3: values and for each byte its number among them."""
    values, packed = payload[:1 << bits], payload[1 << bits:]
    each, plane = 8 // bits, bytearray()
    meanings = [bytes(values[byte >> bits * part & (1 << bits) - 1] for part in range(each)) for byte in range(256)]
    for byte in packed:
        plane += meanings[byte]
    need(size % each == 0 or packed[-1] >> size % each * bits == 0, "plane-invalid", where)
    return bytes(plane[:size])


def unrotate(planes):
    """Rotates every element right by one bit, plane by plane: byte k takes its top bit from byte k + 1's lowest."""
    right = bytes(value >> 1 for value in range(256))
    carry = bytes((value & 1) << 7 for value in range(256))
    size = len(planes[0])
    result = []
    for k, plane in enumerate(planes):
        above = planes[(k + 1) % len(planes)].translate(carry)
        merged = int.from_bytes(plane.translate(right), "little") | int.from_bytes(above, "little")
        result.append(merged.to_bytes(size, "little"))
    return result


def add_differences(data, base, width):
    """Chapter 5.1, codec 3: each integer is a difference to the base's, its sign in the lowest bit."""
    code = {1: "B", 2: "H", 4: "I", 8: "Q"}[width]
    count, mask = len(data) // width, (1 << 8 * width) - 1
    result = array.array(code)
    for value, before in zip(struct.unpack(f"<{count}{code}", data), struct.unpack(f"<{count}{code}", base)):
        result.append(((value >> 1 ^ -(value & 1)) + before) & mask)
    if sys.byteorder == "big":
        result.byteswap()
    return result.tobytes()


class Bases:
    """Tensors of safetensors and .opck files, by name."""

    def __init__(self, paths):
        self.found = {}
        for path in paths or ():
            with open(path, "rb") as file:
                start = file.read(8)
                if MAGIC.startswith(start):
                    checkpoint = Checkpoint(path)
                    for tensor in checkpoint.tensors:
                        self.found[tensor.name] = lambda c=checkpoint, t=tensor: b"".join(c.chunks(t))
                    continue
                length = struct.unpack("<Q", start)[0]
                for name, entry in json.loads(file.read(length)).items():
                    if name != "__metadata__":
                        self.found[name] = lambda path=path, at=8 + length, span=entry["data_offsets"]: part(path, at, span)

    def bytes(self, tensor):
        if tensor.base is None:
            return None
        need(tensor.base["name"] in self.found, "base-missing" if self.found else "base-needed", tensor.name)
        data = self.found[tensor.base["name"]]()
        need(len(data) == tensor.size, "base-missing", tensor.name)
        need(hashlib.sha256(data).hexdigest() == tensor.base["sha256"], "base-hash", tensor.name)
        return data


def part(path, start, span):
    with open(path, "rb") as file:
        file.seek(start + span[0])
        return file.read(span[1] - span[0])


def check(paths):
    bad = False
    for path in paths:
        try:
            checkpoint = Checkpoint(path)
            for tensor in checkpoint.tensors:
                for _ in checkpoint.chunks(tensor):
                    pass
            print(f"{path}: ok")
        except (Fault, OSError) as error:
            bad = True
            print(f"{path}: {error if isinstance(error, Fault) else f'io: {error}'}")
    return 1 if bad else 0


def listing(path):
    checkpoint = Checkpoint(path)
    print(json.dumps({"kind": checkpoint.kind, "metadata": checkpoint.metadata}, ensure_ascii=False))
    for tensor in checkpoint.tensors:
        print(f"{tensor.label}\t{tensor.dtype}\t{tensor.shape}\t{tensor.size}\t{tensor.sha256 or '-'}")
    return 0


def extract(path, out, against):
    checkpoint, bases = Checkpoint(path), Bases(against)
    header, offset = {"__metadata__": {"opck.kind": checkpoint.kind, "opck.metadata": json.dumps(checkpoint.metadata)}}, 0
    for tensor in checkpoint.tensors:
        need(tensor.label != "__metadata__", "name-invalid", "safetensors keeps the name __metadata__ for itself")
        header[tensor.label] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, offset + tensor.size]}
        offset += tensor.size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    # The output appears under its name only when everything in it has been checked.
    partial = f"{out}.{os.getpid()}.partial"
    try:
        with open(partial, "xb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for tensor in checkpoint.tensors:
                for raw in checkpoint.chunks(tensor, bases.bytes(tensor)):
                    file.write(raw)
        os.rename(partial, out)
    finally:
        if os.path.exists(partial):
            os.unlink(partial)
    return 0


def unpack(path, out, against):
    checkpoint, bases = Checkpoint(path), Bases(against)
    need(checkpoint.files is not None, "kind-invalid", f"a checkpoint of kind {checkpoint.kind} and not a pack")
    partial = f"{out}.{os.getpid()}.partial"
    try:
        for number, name in enumerate(checkpoint.files):
            place = partial if checkpoint.kind == "file" else os.path.join(partial, name)
            os.makedirs(place if name.endswith("/") else os.path.dirname(place) or ".", exist_ok=True)
            if name.endswith("/"):
                continue
            with open(place, "xb") as file:
                for tensor in checkpoint.tensors:
                    if tensor.file == number:
                        for raw in checkpoint.chunks(tensor, bases.bytes(tensor)):
                            file.write(raw)
        if not checkpoint.files:
            os.mkdir(partial)
        os.rename(partial, out)
    finally:
        if os.path.isdir(partial):
            shutil.rmtree(partial)
        elif os.path.exists(partial):
            os.unlink(partial)
    return 0


def main():
    parser = argparse.ArgumentParser(prog="opck.py", description="Reference decoder of .opck files.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="check every byte of files").add_argument("files", nargs="+", metavar="FILE")
    commands.add_parser("list", help="show kind, metadata and tensors").add_argument("file", metavar="FILE")
    for name, text in (("extract", "write the tensors as a safetensors file"), ("unpack", "write the packed file or folder")):
        command = commands.add_parser(name, help=text)
        command.add_argument("file", metavar="FILE")
        command.add_argument("--out", required=True, metavar="OUT")
        command.add_argument("--against", action="append", metavar="BASE")
    try:
        options = parser.parse_args()
    except SystemExit as end:
        return 64 if end.code else 0
    try:
        if options.command == "check":
            return check(options.files)
        if options.command == "list":
            return listing(options.file)
        if os.path.lexists(options.out):
            print(f"{options.out}: the output exists already; choose another name", file=sys.stderr)
            return 73
        return (extract if options.command == "extract" else unpack)(options.file, options.out, options.against)
    except Fault as fault:
        print(f"{options.file}: {fault}", file=sys.stderr)
        return 65
    except OSError as error:
        print(f"io: {error}", file=sys.stderr)
        return 74


if __name__ == "__main__":
    sys.exit(main())
