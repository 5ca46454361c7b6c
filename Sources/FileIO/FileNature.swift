/// What a file really is, by its first bytes and its name, where it is not what its reader hoped for. Readers ask when they cannot go on,
/// so that every command gives the same reason for the same file.
public enum FileNature: Sendable, Equatable {
    /// A link, as caches of hubs have them, to what is not there.
    case brokenLink
    case empty
    /// A pointer of Git LFS, which stands in a clone for the file until that is fetched.
    case lfsPointer
    /// What a download leaves that has not finished, by its name.
    case unfinishedDownload
    case pickle
    case gguf
    case opck
    case hdf5
    /// An archive or compressed file, by what it is called.
    case archive(String)
    case webPage
    case xml
    case json
    case text

    /// How much of a file is looked at.
    private static let headBytes = 1024

    /// - Parameter path: a file; `nil` for one that is not read, or is of no kind that is known here.
    public init?(path: String) {
        guard let file = try? MappedFile(path: path) else {
            guard FileSystem.kind(of: path) == .link, FileSystem.resolved(path) == nil else { return nil }
            self = .brokenLink
            return
        }
        let head = unsafe file.bytes.extracting(0..<min(file.count, Self.headBytes)).withUnsafeBytes { unsafe Array($0) }
        self.init(head, name: FileSystem.lastComponent(path))
    }

    /// - Parameters:
    ///   - head: the first bytes of the file, or all.
    ///   - name: the file's name, which tells an unfinished download and a pickle in an archive.
    public init?(_ head: [UInt8], name: String = "") {
        let head = head.prefix(Self.headBytes)
        func begins(_ bytes: [UInt8]) -> Bool { head.starts(with: bytes) }
        func begins(_ text: String) -> Bool { head.starts(with: text.utf8) }
        if head.isEmpty {
            self = .empty
        } else if begins("version https://git-lfs.github.com/spec/") {
            self = .lfsPointer
        } else if Self.unfinishedEndings.contains(where: name.hasSuffix) {
            self = .unfinishedDownload
        } else if Self.isSafetensors(head) {
            return nil
        } else if begins("PK\u{3}\u{4}") {
            // torch.save writes an archive that holds `NAME/data.pkl` first.
            self = Self.isPickled(name) || Self.holds(head, "data.pkl") ? .pickle : .archive("a ZIP archive")
        } else if head.count > 2, head.first == 0x80, (2...5).contains(head[1]) {
            self = .pickle
        } else if begins("GGUF") {
            self = .gguf
        } else if begins([0x89, 0x4F, 0x50, 0x43, 0x4B]) {
            self = .opck
        } else if begins([0x89, 0x48, 0x44, 0x46]) {
            self = .hdf5
        } else if let (_, kind) = Self.archives.first(where: { begins($0.magic) }) {
            self = .archive(kind)
        } else if head.count > 262, Self.holds(head[257..<262], "ustar") {
            self = .archive("a tar archive")
        } else if let nature = Self.ofText(head) {
            self = nature
        } else {
            return nil
        }
    }

    private static let unfinishedEndings = [".incomplete", ".part", ".partial", ".crdownload", ".download", ".aria2"]
    private static let pickleEndings = [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"]
    private static let archives: [(magic: [UInt8], kind: String)] = [
        ([0x1F, 0x8B], "compressed by gzip"), ([0x28, 0xB5, 0x2F, 0xFD], "compressed by zstd"),
        ([0xFD, 0x37, 0x7A, 0x58, 0x5A, 0x00], "compressed by xz"),
        ([0x42, 0x5A, 0x68], "compressed by bzip2"), ([0x37, 0x7A, 0xBC, 0xAF, 0x27, 0x1C], "a 7z archive"),
        ([0x52, 0x61, 0x72, 0x21], "a RAR archive"),
    ]

    /// Whether a name is that of a pickle, as PyTorch's files are called.
    public static func isPickled(_ name: String) -> Bool { pickleEndings.contains(where: name.hasSuffix) }
    /// Whether a name is that of a download that has not finished.
    public static func isUnfinished(_ name: String) -> Bool { unfinishedEndings.contains(where: name.hasSuffix) }

    private static func holds(_ bytes: ArraySlice<UInt8>, _ text: String) -> Bool {
        let text = Array(text.utf8)
        return bytes.indices.dropLast(text.count - 1).contains { bytes[$0...].starts(with: text) }
    }

    /// Whether a length of the header and the header follow, as in a safetensors file; the length may begin like another kind's signature.
    private static func isSafetensors(_ head: ArraySlice<UInt8>) -> Bool {
        head.count > 8 && head[8] == UInt8(ascii: "{") && head[4..<8].allSatisfy { $0 == 0 }
    }

    /// A kind of text; `nil` for bytes that are none.
    private static func ofText(_ head: ArraySlice<UInt8>) -> FileNature? {
        // The head may end inside a character; what is not ASCII is not judged.
        guard head.allSatisfy({ $0 >= 0x20 && $0 != 0x7F || $0 == 0x0A || $0 == 0x0D || $0 == 0x09 }) else { return nil }
        let text = String(decoding: head, as: UTF8.self).drop { $0.isWhitespace || $0 == "\u{FEFF}" }
        let start = text.prefix(64).lowercased()
        if start.hasPrefix("<!doctype html") || start.hasPrefix("<html") { return .webPage }
        if start.hasPrefix("<?xml") { return .xml }
        guard head.allSatisfy({ $0 < 0x80 }) else { return nil }
        return start.hasPrefix("{") || start.hasPrefix("[") ? .json : .text
    }

    /// Why pickles are not read and what to do with one that is needed.
    public static let pickleAdvice =
        "loading one can run any code that it holds; where you trust it, load it with torch.load(…, weights_only=True) and save clones of its "
        + "tensors with safetensors.torch.save_file"

    /// What the file is and what to do, as the end of a sentence that begins with the path.
    public var explanation: String {
        switch self {
        case .brokenLink:
            "this is a link, and what it leads to is not there; fetch the file again, or copy the folder with what its links lead to"
        case .empty: "the file is empty; fetch or copy it again"
        case .lfsPointer: "this is a pointer of Git LFS and not the file itself; fetch the file with `git lfs pull`"
        case .unfinishedDownload: "the download of this file has not finished; fetch it again"
        case .pickle: "this is a pickle, which is not read because \(Self.pickleAdvice)"
        case .gguf: "this is a GGUF file, and safetensors are needed here; name the model that it was made from"
        case .opck:
            "this is an .opck file, and safetensors are needed here; `oplora unpack` gives a pack's files back, `oplora collapse` a run's adapter"
        case .hdf5: "this is an HDF5 file, as Keras writes them, which is not read; save the model as safetensors"
        case .archive(let kind): "this file is \(kind); unpack it first"
        case .webPage:
            "this is a web page, perhaps an error that was saved in the file's place; check the address and your access, and fetch it again"
        case .xml:
            "this is an XML document, perhaps an error that was saved in the file's place; check the address and your access, and fetch it again"
        case .json: "this is a JSON file and holds no weights; name the safetensors file, or the folder that it lies in"
        case .text: "this is a text file and holds no weights; name the safetensors file, or the folder that it lies in"
        }
    }
}
