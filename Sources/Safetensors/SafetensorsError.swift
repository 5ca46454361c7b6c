internal import FileIO

/// Why a file is not the safetensors file that it should be.
public struct SafetensorsError: Error, Sendable, Equatable {
    /// One code for each way in which a file can be wrong; scripts may rely on the names.
    public enum Code: String, Sendable, CaseIterable {
        /// Fewer than the eight bytes that hold the header's length.
        case headerTooSmall
        /// The header claims more than 100,000,000 bytes.
        case headerTooLarge
        /// The header claims to go past the end of the file.
        case headerPastEnd
        /// The header is not the JSON that the format wants.
        case invalidHeader
        /// The first byte of the header is not `{`.
        case invalidHeaderStart
        /// Something else than spaces fills the header up.
        case invalidPadding
        /// `__metadata__` is not a map from strings to strings.
        case invalidMetadata
        /// A tensor's entry lacks a field, has one too many, or one of a wrong type.
        case invalidTensor
        case unknownDType
        /// Offsets that run backwards, overlap or leave a gap.
        case invalidOffset
        /// The offsets do not span what dtype and shape need.
        case sizeMismatch
        /// The product of a shape, or its size in bytes, does not fit.
        case sizeOverflow
        /// Tensor data ends before the file does.
        case trailingBytes
        /// Tensor data goes past the end of the file.
        case dataPastEnd
        /// The shard index is not what it should be.
        case invalidIndex
        /// The index and the shards do not name the same tensors.
        case indexMismatch
        /// A name in the index leads out of the folder.
        case unsafePath
        /// Two shards hold a tensor of the same name.
        case duplicateTensor
        /// A tensor that was asked for is not there.
        case missingTensor
        /// The folder holds no weights.
        case noWeights
        /// A shard is not in the folder.
        case missingShard
        /// The folder holds weights in a format that is not read.
        case otherFormat
    }

    public let code: Code
    public let path: String
    public let tensor: String?
    /// Byte offset into the file.
    public let offset: Int?
    public let message: String

    public init(_ code: Code, path: String, tensor: String? = nil, offset: Int? = nil, _ message: String) {
        self.code = code
        self.path = path
        self.tensor = tensor
        self.offset = offset
        self.message = message
    }
}

extension SafetensorsError: CustomStringConvertible {
    public var description: String {
        var place = path
        if let tensor { place += ", tensor \(tensor)" }
        if let offset { place += ", byte \(offset)" }
        return "\(place): \(message)"
    }
}

extension SafetensorsError {
    /// The same error with its true cause, where the file is of another kind.
    func explained() -> SafetensorsError {
        guard let nature = FileNature(path: path) else { return self }
        return SafetensorsError(nature == .empty ? code : .otherFormat, path: path, nature.explanation)
    }
}
