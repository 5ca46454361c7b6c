internal import CKernels

/// Splitting elements into byte planes and joining them again.
///
/// Plane k holds byte k of every element, the least significant first, after what `PlaneLayout.arrangement` says.
/// `BytePlanesReference` is the same in plain Swift.
enum BytePlanes {
    /// Bytes that are handled at a time, so that the checksum and the planes find them in a near cache.
    private static let blockSize = 1 << 14

    /// raw and, for differences, base are (count × width) bytes, planes is (width, count) bytes.
    ///
    /// - Returns: the CRC-32 of `raw`.
    @discardableResult
    static func split(_ raw: RawSpan, base: RawSpan?, into planes: inout [UInt8], layout: PlaneLayout) -> UInt32 {
        let count = raw.byteCount / layout.width
        precondition(raw.byteCount == count * layout.width && planes.count >= raw.byteCount)
        precondition(layout.arrangement != .difference || base?.byteCount == raw.byteCount)
        var sum: UInt32 = 0
        // Sound: all regions hold count × width bytes, checked above, and stay alive during the call.
        unsafe planes.withUnsafeMutableBufferPointer { target in
            for start in stride(from: 0, to: raw.byteCount, by: blockSize) {
                let part = start..<min(start + blockSize, raw.byteCount)
                sum = checksum(raw.extracting(part), continuing: sum)
                unsafe raw.extracting(part).withUnsafeBytes { source in
                    unsafe withOptionalBytes(of: base, in: part) { base in
                        unsafe oplora_planes_split(
                            source.bindMemory(to: UInt8.self).baseAddress, base, part.count / layout.width, layout.width,
                            layout.arrangement.kernelMode, target.baseAddress! + start / layout.width, count)
                    }
                }
            }
        }
        return sum
    }

    /// planes are `width` pointers to `count` bytes each, raw and, for differences, base are (count × width) bytes.
    ///
    /// - Returns: the CRC-32 of `raw`.
    @discardableResult
    static func join(
        _ planes: [UnsafePointer<UInt8>?], base: RawSpan?, into raw: UnsafeMutableRawBufferPointer, layout: PlaneLayout
    ) -> UInt32 {
        let count = raw.count / layout.width
        precondition(unsafe planes.count == layout.width && raw.count == count * layout.width)
        precondition(layout.arrangement != .difference || base?.byteCount == raw.count)
        var sum: UInt32 = 0
        for start in stride(from: 0, to: raw.count, by: blockSize) {
            let part = start..<min(start + blockSize, raw.count)
            // Sound: as above; that the planes have `count` bytes each is the caller's part.
            let target = unsafe UnsafeMutableRawBufferPointer(rebasing: raw[part])
            let sources = unsafe planes.map { unsafe $0.map { unsafe $0 + start / layout.width } }
            unsafe withOptionalBytes(of: base, in: part) { base in
                unsafe sources.withUnsafeBufferPointer { sources in
                    unsafe oplora_planes_join(
                        sources.baseAddress, base, part.count / layout.width, layout.width, layout.arrangement.kernelMode,
                        target.bindMemory(to: UInt8.self).baseAddress)
                }
            }
            sum = unsafe checksum(UnsafeRawBufferPointer(target).bytes, continuing: sum)
        }
        return sum
    }

    private static func withOptionalBytes(of base: RawSpan?, in range: Range<Int>, _ body: (UnsafePointer<UInt8>?) -> Void) {
        guard let base else { return body(nil) }
        unsafe base.extracting(range).withUnsafeBytes { unsafe body($0.bindMemory(to: UInt8.self).baseAddress) }
    }
}

extension PlaneLayout.Arrangement {
    fileprivate var kernelMode: oplora_planes_mode {
        switch self {
        case .plain: oplora_planes_plain
        case .rotated: oplora_planes_rotated
        case .difference: oplora_planes_difference
        }
    }
}
