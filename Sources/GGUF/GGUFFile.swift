public import FileIO
public import OrderedCollections
internal import Tensors

/// What a GGUF file says of one tensor.
public struct GGUFTensor: Sendable, Hashable {
    public let name: String
    public let type: GGMLType
    /// Dimensions, outermost first: the other way round than they stand in the file.
    public let shape: [Int]
    /// Bytes of the tensor, counted from the start of the file.
    public let byteRange: Range<Int>
}

/// A GGUF file, mapped into memory: metadata and tensor table, read and checked. Nothing writes models as such files.
///
/// Layout: `GGUF`, version, counts of tensors and fields, the fields, the tensor table, padding, the tensors' bytes.
/// Source: `docs/gguf.md` of ggml, versions 2 and 3, little-endian.
public final class GGUFFile: Sendable {
    public let file: MappedFile
    public let version: Int
    /// What the places of tensors are multiples of, in bytes.
    public let alignment: Int
    /// The fields, in the order of the file.
    public let metadata: OrderedDictionary<String, GGUFValue>
    /// The tensors, in the order of the table.
    public let tensors: OrderedDictionary<String, GGUFTensor>

    static let magic = Array("GGUF".utf8)

    /// Opens and checks a file; the tensors' bytes themselves are not read.
    ///
    /// - Throws: `GGUFError` or `FileError`.
    public init(path: String) throws {
        let mapped = try MappedFile(path: path)
        let header = try Self.header(of: mapped)
        file = mapped
        version = header.version
        alignment = header.alignment
        metadata = header.metadata
        tensors = header.tensors
    }

    private static func header(of file: MappedFile) throws(GGUFError) -> GGUFHeader {
        do {
            return try GGUFHeader(parsing: file.bytes, path: file.path)
        } catch {
            // What is called `.gguf` and is of another kind.
            guard error.code == .notGGUF, let nature = FileNature(path: file.path), nature != .empty else { throw error }
            throw GGUFError(.notGGUF, path: file.path, nature.explanation)
        }
    }

    public var path: String { file.path }

    /// Whether to read a path as a GGUF file: by its first bytes, or by its name, so that a damaged one is told apart from
    /// a file of another kind.
    public static func claims(_ path: String) -> Bool {
        guard !FileSystem.isFolder(path) else { return false }
        if path.hasSuffix(".gguf") { return true }
        guard let file = try? MappedFile(path: path), file.count >= magic.count else { return false }
        let bytes = Span<UInt8>(_bytes: file.bytes)
        return magic.indices.allSatisfy { bytes[$0] == magic[$0] }
    }
}
