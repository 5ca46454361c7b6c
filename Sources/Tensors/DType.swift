/// The element type of a stored tensor, by the names of the safetensors format.
///
/// Source: the `Dtype` enumeration of the safetensors reference library, version 0.8. Sub-byte types are packed: a
/// tensor of `F4` holds two elements a byte, one of `F6_*` four elements in three bytes.
public enum DType: String, CaseIterable, Sendable, Hashable {
    case bool = "BOOL"
    case f4 = "F4"
    case f6E2M3 = "F6_E2M3"
    case f6E3M2 = "F6_E3M2"
    case u8 = "U8"
    case i8 = "I8"
    case f8E5M2 = "F8_E5M2"
    case f8E4M3 = "F8_E4M3"
    case f8E5M2FNUZ = "F8_E5M2FNUZ"
    case f8E4M3FNUZ = "F8_E4M3FNUZ"
    case f8E8M0 = "F8_E8M0"
    case i16 = "I16"
    case u16 = "U16"
    case f16 = "F16"
    case bf16 = "BF16"
    case i32 = "I32"
    case u32 = "U32"
    case f32 = "F32"
    case c64 = "C64"
    case f64 = "F64"
    case i64 = "I64"
    case u64 = "U64"

    /// The size of one element in bits.
    public var bitWidth: Int {
        switch self {
        case .f4: 4
        case .f6E2M3, .f6E3M2: 6
        case .bool, .u8, .i8, .f8E5M2, .f8E4M3, .f8E5M2FNUZ, .f8E4M3FNUZ, .f8E8M0: 8
        case .i16, .u16, .f16, .bf16: 16
        case .i32, .u32, .f32: 32
        case .c64, .f64, .i64, .u64: 64
        }
    }
}

extension DType {
    /// Whether it is a floating-point type that is computed with: weights, factors and whole tensors of adapters may have it.
    public var isFloat: Bool { self == .f32 || self == .bf16 || self == .f16 || self == .f64 }

    /// Whether models and adapters are written in it where another type than the stored one is asked for, and run in it.
    public var isWritable: Bool { self == .f32 || self == .bf16 || self == .f16 }

    /// Such a type by the name that PyTorch and `config.json` give it: `bfloat16`.
    public static func writable(named name: String) -> DType? {
        switch name {
        case "float32": .f32
        case "bfloat16": .bf16
        case "float16": .f16
        default: nil
        }
    }
}

extension DType: CustomStringConvertible {
    public var description: String { rawValue }
}
