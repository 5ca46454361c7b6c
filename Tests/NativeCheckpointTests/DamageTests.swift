import Hashing
import JSON
import Tensors
import TestSupport
import Testing

@testable import NativeCheckpoint

/// A file with every plane method, several chunks and an empty tensor, in few bytes.
private func smallFile() throws -> [UInt8] {
    try encoded(
        [
            Sample(name: "w", dtype: .bf16, shape: [3], bytes: [0x80, 0x3F, 0x00, 0xC0, 0xC0, 0x3F]),
            Sample(name: "m", dtype: .f32, shape: [20], bytes: littleEndian((0..<20).map { Float($0) })),
            Sample(name: "t", dtype: .u8, shape: [64], bytes: [UInt8](repeating: 0x61, count: 32) + (0..<32).map { 0x61 + $0 % 2 }),
            Sample(name: "e", dtype: .i64, shape: [0], bytes: []),
        ], metadata: ["step": 5], chunkSize: 64)
}

@Suite struct DamageTests {
    @Test func everyFlippedBitIsFound() throws {
        try withTemporaryFolder { folder in
            let file = try smallFile()
            _ = try decoded(file, in: folder)
            for bit in 0..<(file.count * 8) {
                var damaged = file
                damaged[bit / 8] ^= 1 << UInt8(bit % 8)
                #expect(fault(damaged, in: folder) != nil, "bit \(bit % 8) of byte \(bit / 8)")
            }
        }
    }

    @Test func everyTruncationIsFound() throws {
        try withTemporaryFolder { folder in
            let file = try smallFile()
            for length in 0..<file.count {
                let error = fault(Array(file[..<length]), in: folder)
                let expected: CheckpointError.Code = length < 104 ? .fileTooShort : .trailerMissing
                #expect(error?.code == expected, "\(length) bytes")
            }
        }
    }

    @Test func everyMissingOrAddedByteIsFound() throws {
        try withTemporaryFolder { folder in
            let file = try smallFile()
            for position in file.indices {
                var damaged = file
                damaged.remove(at: position)
                #expect(fault(damaged, in: folder) != nil, "byte \(position) removed")
                damaged = file
                damaged.insert(0, at: position)
                #expect(fault(damaged, in: folder) != nil, "a zero inserted at \(position)")
            }
            #expect(fault(file + [0], in: folder)?.code == .trailerMissing)
            #expect(fault(file + [0x0A], in: folder)?.code == .trailerMissing)
            #expect(fault(file + file, in: folder)?.code == .trailerInvalid)
            #expect(fault(file + file.suffix(Format.trailerSize), in: folder)?.code == .trailerInvalid)
        }
    }

    /// Damage that respects the checksums has to be caught by what they cover.
    @Test func damageUnderFreshChecksumsIsNeverReadAsRight() throws {
        try withTemporaryFolder { folder in
            let file = try smallFile()
            let original = try decoded(file, in: folder)
            let seed: UInt64 = 99
            var generator = SeededGenerator(seed: seed)
            for round in 0..<2000 {
                var forged = Forgery(file)
                let region = [0..<32, forged.chunkBytes, forged.text, forged.table, forged.trailer].randomElement(using: &generator)!
                forged.bytes[Int.random(in: region, using: &generator)] = UInt8.random(in: 0...255, using: &generator)
                forged.reseal()
                // Whatever is accepted holds the same tensors.
                if let tensors = try? decoded(forged.bytes, in: folder) {
                    for (name, bytes) in tensors {
                        if let known = original[name] { #expect(known == bytes, "seed \(seed), round \(round)") }
                    }
                }
            }
        }
    }

    /// Damage in one tensor is named, and does not keep the others from being read.
    @Test func damageStaysWhereItIs() throws {
        try withTemporaryFolder { folder in
            var file = try smallFile()
            file[Format.prologueSize + 60] ^= 1
            let path = folder + "/decoded.opck"
            let error = fault(file, in: folder)
            #expect(error?.code == .chunkChecksum && error?.tensor == "w" && error?.offset == 32)
            #expect(error?.description.hasPrefix("\(path): tensor \"w\": at byte 32: the checksum of a chunk is wrong") == true)
            let checkpoint = try CheckpointFile(path: path)
            #expect(try checkpoint.read("m") == littleEndian((0..<20).map { Float($0) }))
            var bytes: [UInt8] = [1, 2, 3, 4, 5, 6]
            #expect(throws: CheckpointError.self) {
                var span = bytes.mutableSpan
                var raw = unsafe span.mutableBytes
                try checkpoint.read("w", into: &raw)
            }
            #expect(bytes == [0, 0, 0, 0, 0, 0])
        }
    }
}

/// A file under the hands of someone who can compute checksums.
struct Forgery {
    var bytes: [UInt8]
    /// Where the parts lie; moved by `replaceText` and `replaceTable`.
    private(set) var text: Range<Int>
    private(set) var table: Range<Int>

    init(_ bytes: [UInt8]) {
        self.bytes = bytes
        let start = bytes.count - Format.trailerSize
        func field(_ offset: Int) -> Int { Int(bytes.rawBytes.integer(at: start + offset, as: UInt64.self)) }
        text = field(0)..<(field(0) + field(8))
        table = text.upperBound..<(text.upperBound + field(16) * Format.tableRowSize)
    }

    var chunkBytes: Range<Int> { Format.prologueSize..<text.lowerBound }
    var trailer: Range<Int> { (bytes.count - Format.trailerSize)..<bytes.count }

    mutating func put(_ value: some FixedWidthInteger, at offset: Int) {
        var encoded: [UInt8] = []
        encoded.append(integer: value)
        bytes.replaceSubrange(offset..<(offset + encoded.count), with: encoded)
    }

    mutating func replaceText(_ old: String, _ new: String) {
        let changed = String(decoding: bytes[text], as: UTF8.self).replacing(old, with: new)
        setText(Array(changed.utf8))
    }

    mutating func setText(_ new: [UInt8]) {
        let growth = new.count - text.count
        bytes.replaceSubrange(text, with: new)
        text = text.lowerBound..<(text.upperBound + growth)
        table = (table.lowerBound + growth)..<(table.upperBound + growth)
        put(UInt64(text.count), at: trailer.lowerBound + 8)
        put(UInt64(bytes.count), at: trailer.lowerBound + 24)
    }

    /// Inserts bytes into the region of the chunks and moves what follows.
    mutating func insert(_ new: [UInt8], at offset: Int) {
        bytes.insert(contentsOf: new, at: offset)
        text = (text.lowerBound + new.count)..<(text.upperBound + new.count)
        table = (table.lowerBound + new.count)..<(table.upperBound + new.count)
        put(UInt64(text.lowerBound), at: trailer.lowerBound)
        put(UInt64(bytes.count), at: trailer.lowerBound + 24)
    }

    /// Gives the prologue, each chunk that the table still finds, and the footer the checksum that fits.
    mutating func reseal() {
        put(checksum(bytes.rawBytes.extracting(0..<28)), at: 28)
        var start = Format.prologueSize
        for row in stride(from: table.lowerBound, to: table.upperBound, by: Format.tableRowSize) {
            let length = Int(bytes.rawBytes.integer(at: row, as: UInt32.self))
            guard length >= 40, start <= text.lowerBound - length else { break }
            let sum = checksum(bytes.rawBytes.extracting(start..<(start + length - 4)))
            put(sum, at: start + length - 4)
            put(sum, at: row + 4)
            start += length
        }
        resealFooter()
    }

    mutating func resealFooter() {
        var digest = SHA256Digest()
        digest.update(bytes.rawBytes.extracting(0..<32))
        digest.update(bytes.rawBytes.extracting(text.lowerBound..<(trailer.lowerBound + 32)))
        bytes.replaceSubrange((trailer.lowerBound + 32)..<(trailer.lowerBound + 64), with: digest.finish())
    }
}
