/// Splitting elements into byte planes and joining them again.
///
/// Plane k holds byte k of every element, the least significant first. With rotation an element `x` of n bits is turned
/// into `x << 1 | x >> (n − 1)` before the split: the sign goes to the low end and the top byte is exponent only.
enum BytePlanes {
    /// Elements that are handled at a time, so that what one plane's pass reads is still in the first-level cache for
    /// the next.
    private static let block = 4096

    /// raw is (count × width) bytes, planes is (width, count) bytes.
    static func split(_ raw: RawSpan, into planes: inout [UInt8], layout: PlaneLayout) {
        let count = raw.byteCount / layout.width
        precondition(raw.byteCount == count * layout.width && planes.count >= raw.byteCount)
        // Sound: both regions hold count × width bytes, checked above, and stay alive during the call.
        unsafe raw.withUnsafeBytes { source in
            unsafe planes.withUnsafeMutableBytes { target in
                guard let from = source.baseAddress, let to = target.baseAddress else { return }
                switch layout.width {
                case 1: unsafe to.copyMemory(from: from, byteCount: count)
                case 2: unsafe split(UInt16.self, from, to, count, rotates: layout.rotates)
                case 4: unsafe split(UInt32.self, from, to, count, rotates: layout.rotates)
                default: unsafe split(UInt64.self, from, to, count, rotates: layout.rotates)
                }
            }
        }
    }

    @inline(__always)
    private static func split<Element: FixedWidthInteger & UnsignedInteger & BitwiseCopyable>(
        _ type: Element.Type, _ from: UnsafeRawPointer, _ to: UnsafeMutableRawPointer, _ count: Int, rotates: Bool
    ) {
        let width = MemoryLayout<Element>.size
        var start = 0
        while start < count {
            let end = min(start + block, count)
            for plane in 0..<width {
                let target = unsafe to + plane * count
                // The shift that brings byte `plane` of the rotated element to the low end, the sign's bit apart.
                let shift = Element(truncatingIfNeeded: plane * 8)
                if !rotates {
                    for index in start..<end {
                        let element = unsafe Element(littleEndian: from.loadUnaligned(fromByteOffset: index &* width, as: Element.self))
                        unsafe target.storeBytes(
                            of: UInt8(truncatingIfNeeded: element &>> shift), toByteOffset: index, as: UInt8.self)
                    }
                } else {
                    for index in start..<end {
                        let element = unsafe Element(littleEndian: from.loadUnaligned(fromByteOffset: index &* width, as: Element.self))
                        let rotated = element &<< 1 | element &>> Element(truncatingIfNeeded: width * 8 - 1)
                        unsafe target.storeBytes(
                            of: UInt8(truncatingIfNeeded: rotated &>> shift), toByteOffset: index, as: UInt8.self)
                    }
                }
            }
            start = end
        }
    }

    /// planes are `width` pointers to `count` bytes each, raw is (count × width) bytes.
    static func join(_ planes: [UnsafeRawPointer], into raw: UnsafeMutableRawPointer, count: Int, layout: PlaneLayout) {
        precondition(unsafe planes.count == layout.width)
        switch layout.width {
        case 1:
            // A single plane is decoded in its place, and then there is nothing to join.
            let only = unsafe planes[0]
            if unsafe only != UnsafeRawPointer(raw) { unsafe raw.copyMemory(from: only, byteCount: count) }
        case 2:
            let (p0, p1) = unsafe (planes[0], planes[1])
            for index in 0..<count {
                let element = unsafe UInt16(byte(p0, index)) | UInt16(byte(p1, index)) &<< 8
                unsafe store(element, raw, index, layout.rotates)
            }
        case 4:
            let (p0, p1, p2, p3) = unsafe (planes[0], planes[1], planes[2], planes[3])
            for index in 0..<count {
                let low = unsafe UInt32(byte(p0, index)) | UInt32(byte(p1, index)) &<< 8
                let high = unsafe UInt32(byte(p2, index)) | UInt32(byte(p3, index)) &<< 8
                unsafe store(low | high &<< 16, raw, index, layout.rotates)
            }
        default:
            for index in 0..<count {
                var element: UInt64 = 0
                for plane in 0..<8 { unsafe element |= UInt64(byte(planes[plane], index)) &<< UInt64(plane * 8) }
                unsafe store(element, raw, index, layout.rotates)
            }
        }
    }

    @inline(__always)
    private static func byte(_ plane: UnsafeRawPointer, _ index: Int) -> UInt8 {
        unsafe plane.load(fromByteOffset: index, as: UInt8.self)
    }

    @inline(__always)
    private static func store<Element: FixedWidthInteger & UnsignedInteger & BitwiseCopyable>(
        _ rotated: Element, _ raw: UnsafeMutableRawPointer, _ index: Int, _ rotates: Bool
    ) {
        let element = rotates ? rotated &>> 1 | rotated &<< Element(truncatingIfNeeded: Element.bitWidth - 1) : rotated
        unsafe raw.storeBytes(of: element.littleEndian, toByteOffset: index &* MemoryLayout<Element>.size, as: Element.self)
    }
}
