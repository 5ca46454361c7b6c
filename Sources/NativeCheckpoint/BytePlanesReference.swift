/// What `BytePlanes` computes, element by element and in the words of the specification, chapter 5.1. The kernels are tested
/// against it.
enum BytePlanesReference {
    /// The planes one after the other: (width, count) bytes. `base` is as long as `raw`, and looked at for differences alone.
    static func split(_ raw: [UInt8], base: [UInt8], layout: PlaneLayout) -> [UInt8] {
        let count = raw.count / layout.width
        var planes = [UInt8](repeating: 0, count: raw.count)
        for index in 0..<count {
            let element = arranged(value(raw, index, layout.width), value(base, index, layout.width), layout)
            for plane in 0..<layout.width { planes[plane * count + index] = UInt8(truncatingIfNeeded: element >> UInt64(8 * plane)) }
        }
        return planes
    }

    static func join(_ planes: [UInt8], base: [UInt8], layout: PlaneLayout) -> [UInt8] {
        let count = planes.count / layout.width
        var raw: [UInt8] = []
        for index in 0..<count {
            let element = (0..<layout.width).reduce(UInt64(0)) { $0 | UInt64(planes[$1 * count + index]) << UInt64(8 * $1) }
            let original = restored(element, value(base, index, layout.width), layout)
            for byte in 0..<layout.width { raw.append(UInt8(truncatingIfNeeded: original >> UInt64(8 * byte))) }
        }
        return raw
    }

    private static func arranged(_ value: UInt64, _ base: UInt64, _ layout: PlaneLayout) -> UInt64 {
        let bits = UInt64(8 * layout.width)
        switch layout.arrangement {
        case .plain: return value
        case .rotated: return (value << 1 | value >> (bits - 1)) & mask(bits)
        case .difference:
            let difference = (value &- base) & mask(bits)
            let isNegative = difference >> (bits - 1) == 1
            return (difference << 1 & mask(bits)) ^ (isNegative ? mask(bits) : 0)
        }
    }

    private static func restored(_ element: UInt64, _ base: UInt64, _ layout: PlaneLayout) -> UInt64 {
        let bits = UInt64(8 * layout.width)
        let (half, lowest) = (element >> 1, element & 1)
        switch layout.arrangement {
        case .plain: return element
        case .rotated: return half | lowest << (bits - 1)
        case .difference: return ((lowest == 1 ? half ^ mask(bits) : half) &+ base) & mask(bits)
        }
    }

    private static func mask(_ bits: UInt64) -> UInt64 { bits == 64 ? .max : 1 << bits - 1 }

    private static func value(_ bytes: [UInt8], _ index: Int, _ width: Int) -> UInt64 {
        guard !bytes.isEmpty else { return 0 }
        return (0..<width).reduce(UInt64(0)) { $0 | UInt64(bytes[index * width + $1]) << UInt64(8 * $1) }
    }
}
