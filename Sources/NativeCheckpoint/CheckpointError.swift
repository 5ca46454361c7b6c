public import FileIO

/// Why a checkpoint could not be written, opened or read.
///
/// The codes are those of `formats/native-checkpoint.md`, chapter "Errors", one to one.
public struct CheckpointError: Error, Sendable, Equatable {
    /// What is wrong, in a word that scripts may rely on.
    public enum Code: String, CaseIterable, Sendable {
        // The file as a whole.
        case notCheckpoint = "not-opck"
        case magicDamaged = "magic-damaged"
        case fileTooShort = "file-too-short"
        case prologueDamaged = "prologue-damaged"
        case versionUnsupported = "version-unsupported"
        case featureUnsupported = "feature-unsupported"
        case featureBlocksRewriting = "feature-blocks-rewriting"
        case reservedNotZero = "reserved-not-zero"
        case trailerMissing = "trailer-missing"
        case trailerInvalid = "trailer-invalid"
        case footerDamaged = "footer-damaged"

        // What the footer says.
        case footerSyntax = "footer-syntax"
        case footerField = "footer-field"
        case kindInvalid = "kind-invalid"
        case nameInvalid = "name-invalid"
        case nameDuplicate = "name-duplicate"
        case pathInvalid = "path-invalid"
        case dtypeUnknown = "dtype-unknown"
        case shapeInvalid = "shape-invalid"

        // Chunks and planes.
        case chunkRange = "chunk-range"
        case chunkLength = "chunk-length"
        case chunkCodec = "chunk-codec"
        case chunkHeader = "chunk-header"
        case chunkChecksum = "chunk-checksum"
        case planeInvalid = "plane-invalid"
        case planeStream = "plane-stream"
        case chunkContent = "chunk-content"
        case tensorHash = "tensor-hash"

        // The base that differences are taken from.
        case baseNeeded = "base-needed"
        case baseMissing = "base-missing"
        case baseHash = "base-hash"

        // Limits, checked before memory is taken.
        case limitFooter = "limit-footer"
        case limitTensors = "limit-tensors"
        case limitChunks = "limit-chunks"
        case limitRank = "limit-rank"
        case limitRawBytes = "limit-raw-bytes"

        // The caller and the system.
        case metadataInvalid = "metadata-invalid"
        case bytesMismatch = "bytes-mismatch"
        case tensorUnknown = "tensor-unknown"
        case inputOutput = "io"
    }

    public let code: Code
    /// The file, where one is known.
    public internal(set) var path: String?
    /// The tensor concerned, where there is one.
    public internal(set) var tensor: String?
    /// Where in the file the fault lies, where it has a place.
    public let offset: Int?
    /// What is wrong and what to do, without the file and the place.
    public let message: String
    /// The file system's own error, for the code `io`.
    public let fileError: FileError?

    init(_ code: Code, tensor: String? = nil, at offset: Int? = nil, _ message: String) {
        self.code = code
        self.tensor = tensor
        self.offset = offset
        self.message = message
        fileError = nil
    }

    init(_ error: FileError) {
        code = .inputOutput
        message = error.description
        offset = nil
        fileError = error
    }

    /// The same error with the file's name.
    func inFile(_ path: String) -> CheckpointError {
        var error = self
        error.path = path
        return error
    }

    /// The same error with the tensor's name.
    func inTensor(_ name: String) -> CheckpointError {
        var error = self
        error.tensor = name
        return error
    }
}

extension CheckpointError: CustomStringConvertible {
    public var description: String {
        // A file error's own sentence begins with the path.
        guard fileError == nil else { return message }
        var text = path.map { $0 + ": " } ?? ""
        if let tensor { text += "tensor \"\(tensor)\": " }
        if let offset { text += "at byte \(offset): " }
        return text + message
    }
}
