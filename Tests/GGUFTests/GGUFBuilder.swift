import FileIO
import GGUF

/// The bytes of a GGUF file in the making; every number can be made wrong.
struct GGUFBuilder {
    /// A field of the metadata: its key, the number of its type, and the bytes of its value.
    struct Field {
        var key: [UInt8]
        var type: UInt32
        var value: [UInt8]

        init(_ key: String, _ type: UInt32, _ value: [UInt8]) { (self.key, self.type, self.value) = (Array(key.utf8), type, value) }

        static func string(_ key: String, _ text: String) -> Field { Field(key, 8, GGUFBuilder.text(text)) }
        static func u32(_ key: String, _ number: UInt32) -> Field { Field(key, 4, little(number)) }
        static func array(_ key: String, _ type: UInt32, count: UInt64, _ elements: [UInt8]) -> Field {
            Field(key, 9, little(type) + little(count) + elements)
        }
    }

    struct Tensor {
        var name: [UInt8]
        /// In the order of the file: the innermost first.
        var dimensions: [UInt64]
        var type: UInt32
        var offset: UInt64

        init(_ name: String, _ dimensions: [UInt64], _ type: UInt32, at offset: UInt64) {
            (self.name, self.dimensions, self.type, self.offset) = (Array(name.utf8), dimensions, type, offset)
        }
    }

    var magic = Array("GGUF".utf8)
    var version: UInt32 = 3
    var tensorCount: UInt64?
    var fieldCount: UInt64?
    var fields: [Field] = []
    var tensors: [Tensor] = []
    var alignment = 32
    var data: [UInt8] = []

    var bytes: [UInt8] {
        var bytes = magic + little(version) + little(tensorCount ?? UInt64(tensors.count)) + little(fieldCount ?? UInt64(fields.count))
        for field in fields { bytes += Self.text(field.key) + little(field.type) + field.value }
        for tensor in tensors {
            bytes += Self.text(tensor.name) + little(UInt32(tensor.dimensions.count)) + tensor.dimensions.flatMap { little($0) }
            bytes += little(tensor.type) + little(tensor.offset)
        }
        return bytes + [UInt8](repeating: 0, count: (alignment - bytes.count % alignment) % alignment) + data
    }

    static func text(_ text: String) -> [UInt8] { Self.text(Array(text.utf8)) }
    static func text(_ bytes: [UInt8]) -> [UInt8] { little(UInt64(bytes.count)) + bytes }

    /// A file with something of everything, sound unless changed.
    static var sound: GGUFBuilder {
        GGUFBuilder(
            fields: [
                .string("general.architecture", "llama"), .u32("llama.block_count", 2), .u32("general.alignment", 64),
                Field("a.u8", 0, [200]), Field("a.i8", 1, [0xFF]), Field("a.u16", 2, [1, 2]), Field("a.i16", 3, [0xFE, 0xFF]),
                Field("a.i32", 5, little(UInt32(bitPattern: -7))), Field("a.f32", 6, little(Float(0.5).bitPattern)), Field("a.bool", 7, [1]),
                Field("a.u64", 10, little(UInt64.max)), Field("a.i64", 11, little(UInt64(bitPattern: -9))),
                Field("a.f64", 12, little(Double(0.1).bitPattern)),
                .array("a.tokens", 8, count: 20, (0..<20).flatMap { text("token \($0)") }), .array("a.numbers", 5, count: 2, little(UInt64(1 << 32))),
                .array("a.nothing", 8, count: 0, []),
            ],
            tensors: [
                Tensor("token_embd.weight", [32, 4], 1, at: 0), Tensor("blk.0.attn_q.weight", [256, 2], 12, at: 256),
                Tensor("scalar", [], 0, at: 576),
            ],
            alignment: 64, data: [UInt8](repeating: 1, count: 580))
    }
}

func little<Number: FixedWidthInteger>(_ number: Number) -> [UInt8] {
    (0..<Number.bitWidth / 8).map { UInt8(truncatingIfNeeded: number >> (8 * Number($0))) }
}
