internal import CKernels

/// Splitting elements into byte planes and joining them again.
///
/// Plane k holds byte k of every element, the least significant first, after what `PlaneLayout.arrangement` says.
/// `BytePlanesReference` is the same in plain Swift.
enum BytePlanes {
    /// raw and, for differences, base are (count × width) bytes, planes is (width, count) bytes.
    static func split(_ raw: RawSpan, base: RawSpan?, into planes: inout [UInt8], layout: PlaneLayout) {
        let count = raw.byteCount / layout.width
        precondition(raw.byteCount == count * layout.width && planes.count >= raw.byteCount)
        precondition(layout.arrangement != .difference || base?.byteCount == raw.byteCount)
        // Sound: all regions hold count × width bytes, checked above, and stay alive during the call.
        unsafe raw.withUnsafeBytes { source in
            unsafe withOptionalBytes(of: base) { base in
                unsafe planes.withUnsafeMutableBufferPointer { target in
                    unsafe oplora_planes_split(
                        source.bindMemory(to: UInt8.self).baseAddress, base, count, layout.width, layout.arrangement.kernelMode, target.baseAddress)
                }
            }
        }
    }

    /// planes are `width` pointers to `count` bytes each, raw and, for differences, base are (count × width) bytes.
    static func join(
        _ planes: [UnsafePointer<UInt8>?], base: RawSpan?, into raw: UnsafeMutableRawBufferPointer, layout: PlaneLayout
    ) {
        let count = raw.count / layout.width
        precondition(unsafe planes.count == layout.width && raw.count == count * layout.width)
        precondition(layout.arrangement != .difference || base?.byteCount == raw.count)
        // Sound: as above; that the planes have `count` bytes each is the caller's part.
        unsafe withOptionalBytes(of: base) { base in
            unsafe planes.withUnsafeBufferPointer { planes in
                unsafe oplora_planes_join(
                    planes.baseAddress, base, count, layout.width, layout.arrangement.kernelMode, raw.bindMemory(to: UInt8.self).baseAddress)
            }
        }
    }

    private static func withOptionalBytes(of base: RawSpan?, _ body: (UnsafePointer<UInt8>?) -> Void) {
        guard let base else { return body(nil) }
        unsafe base.withUnsafeBytes { unsafe body($0.bindMemory(to: UInt8.self).baseAddress) }
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
