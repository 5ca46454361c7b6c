import CZlib
import Tensors
import TestSupport
import Testing

@testable import NativeCheckpoint

/// The kernels of planes and checksums against what they are defined by.
@Suite struct PlaneKernelTests {
    private static let layouts = DType.allCases.map { PlaneLayout($0) } + [DType.u8, .i16, .f32, .f64].map { PlaneLayout($0).ofDifferences }

    @Test(arguments: [UInt64(1), 2]) func planesAreTheReferences(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        for layout in Self.layouts {
            for count in [0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 33, 100, 4095, 4096, 4097, 9000] {
                let raw = generator.bytes(count * layout.width)
                // Neighbours of the elements and others, so that differences are small, large, of both signs and none.
                let base = raw.map { generator.next() % 3 == 0 ? UInt8(truncatingIfNeeded: generator.next()) : $0 }
                let expected = BytePlanesReference.split(raw, base: base, layout: layout)
                var planes = [UInt8](repeating: 0xEE, count: raw.count)
                BytePlanes.split(raw.rawBytes, base: base.rawBytes, into: &planes, layout: layout)
                #expect(planes == expected, "\(layout), \(count) elements, seed \(seed)")
                #expect(BytePlanesReference.join(planes, base: base, layout: layout) == raw)
                var joined = [UInt8](repeating: 0xEE, count: raw.count)
                unsafe planes.withUnsafeBufferPointer { planes in
                    unsafe joined.withUnsafeMutableBytes { joined in
                        var parts: [UnsafePointer<UInt8>?] = unsafe []
                        for plane in 0..<layout.width {
                            let part = unsafe UnsafeBufferPointer(rebasing: planes[(plane * count)..<((plane + 1) * count)])
                            unsafe parts.append(part.baseAddress)
                        }
                        unsafe BytePlanes.join(parts, base: base.rawBytes, into: joined, layout: layout)
                    }
                }
                #expect(joined == raw, "\(layout), \(count) elements, seed \(seed)")
            }
        }
    }

    @Test func differencesAsTheSpecificationGivesThem() {
        let layout = PlaneLayout(.bf16).ofDifferences
        let raw: [UInt8] = [0x80, 0x3F, 0x00, 0xC0, 0xC0, 0x3F, 0x7F, 0x3F]
        let base: [UInt8] = [0x80, 0x3F, 0x00, 0xC0, 0xA0, 0x3F, 0x80, 0x3F]
        var planes = [UInt8](repeating: 0, count: 8)
        BytePlanes.split(raw.rawBytes, base: base.rawBytes, into: &planes, layout: layout)
        // 0, 0, 2 · 0x20, and 1 for a difference of -1.
        #expect(planes == [0, 0, 0x40, 1, 0, 0, 0, 0])
    }

    @Test func checksumsAreZlibs() {
        var generator = SeededGenerator(seed: 3)
        let bytes = generator.bytes(5000)
        func expected(_ range: Range<Int>) -> UInt32 {
            unsafe bytes.withUnsafeBufferPointer { bytes in
                UInt32(truncatingIfNeeded: unsafe crc32(0, bytes.baseAddress! + range.lowerBound, UInt32(range.count)))
            }
        }
        for start in 0..<20 {
            for length in Array(0..<700) + [1023, 1024, 1025, 4096, 4970] {
                let range = start..<(start + length)
                for width in [128, 256, 512] {
                    let sum = checksum(bytes.rawBytes.extracting(range), width: width)
                    #expect(sum == expected(range), "\(range), \(width) bits")
                }
            }
        }
        #expect(checksum(Array("123456789".utf8).rawBytes) == 0xCBF4_3926)
    }

    @Test func planesOfFewValuesComeBack() throws {
        var generator = SeededGenerator(seed: 4)
        for (values, bits) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 4), (16, 4)] {
            for length in [64, 65, 66, 67, 1000, 4099] {
                let alphabet = (0..<values).map { UInt8($0 * 13 + 2) }
                let plane = (0..<length).map { index in alphabet[index < values ? index : Int(generator.next() % UInt64(values))] }
                let packing = try #require(PackedPlane(alphabet, length: length))
                #expect(packing.bits == bits)
                var bytes: [UInt8] = [9]
                packing.append(plane.rawBytes, to: &bytes)
                #expect(bytes.count == 1 + packing.byteCount)
                var unpacked = [UInt8](repeating: 0, count: length)
                unsafe bytes.withUnsafeBytes { bytes in
                    unsafe unpacked.withUnsafeMutableBytes { plane in
                        unsafe PackedPlane.unpack(UnsafeRawBufferPointer(rebasing: bytes[1...]), bits: bits, into: plane)
                    }
                }
                #expect(unpacked == plane)
            }
        }
        #expect(PackedPlane((0..<17).map { UInt8($0) }, length: 1000) == nil)
    }
}
