internal import JSON
internal import Tensors

/// A way in which libraries store weights as codes of few bits with scales beside them: how its tensors are known, and,
/// where it is read, what they stand for.
///
/// The tensors of a module `X` are `X` + codes, and all of `X` + scales.
public struct WeightEncoding: Sendable {
    /// What it is called in messages.
    public let name: String
    /// The ending of the name of the codes: `.weight`.
    let codes: String
    let types: Set<DType>
    /// The element types of the first of the scales, where they tell encodings apart.
    let scaleTypes: Set<DType>?
    let scales: [String]
    /// What else may be beside them.
    let others: [String]
    /// The `quant_method` of `config.json`, where only that tells encodings apart.
    let method: String?
    /// How to come by a model that can be merged into, where the encoding is not read.
    let remedy: String
    /// Makes the decoder of one weight; `nil` for an encoding that is known and not read.
    let reader: Reader?

    /// - Throws: `EncodingError` for tensors that do not fit each other.
    typealias Reader = @Sendable (_ tensors: EncodedTensors, _ settings: QuantizationSettings) throws(EncodingError) -> any WeightDecoder

    init(
        _ name: String, codes: String, types: Set<DType>, scaleTypes: Set<DType>? = nil, scales: [String], others: [String] = [],
        method: String? = nil, remedy: String = Self.original,
        reader: Reader? = nil
    ) {
        self.name = name
        (self.codes, self.types, self.scaleTypes, self.scales, self.others) = (codes, types, scaleTypes, scales, others)
        self.method = method
        (self.remedy, self.reader) = (remedy, reader)
    }

    static let original = "name the model that was quantized"
    static let transformers = original + ", or what transformers makes of this one with dequantize=True"
    static let mlx = original + ", or what mlx_lm.convert makes of this one with dequantize=True"

    static let bytes: Set<DType> = [.u8, .i8]
    static let eightBits: Set<DType> = [.f8E4M3, .f8E5M2, .f8E4M3FNUZ, .f8E5M2FNUZ]
    static let words: Set<DType> = [.i32, .u32]
    static let exponents: Set<DType> = [.u8, .f8E8M0]
    /// Types of codes; a model without them is not quantized.
    static let codeTypes = bytes.union(eightBits).union(words).union([.f4, .f6E2M3, .f6E3M2, .i16, .u16])
    static let anyType = codeTypes.union([.f32, .bf16, .f16])
}

/// The tensors of one encoded weight.
struct EncodedTensors: Sendable {
    let codes: StoredTensor
    /// By the endings of their names.
    let scales: [String: StoredTensor]
}

/// Why the tensors of an encoded weight cannot be read.
struct EncodingError: Error {
    /// A clause: what does not fit.
    let message: String

    init(_ message: String) { self.message = message }
}
