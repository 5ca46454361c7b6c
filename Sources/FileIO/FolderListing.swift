#if canImport(Darwin)
    internal import Darwin
#else
    internal import Glibc
#endif

/// All that lies in a folder and the folders in it. Links are not followed.
public struct FolderListing: Sendable {
    public struct Entry: Sendable, Equatable {
        /// From the folder on.
        public let path: String
        public let kind: FileSystem.Kind

        public var name: String { FileSystem.lastComponent(path) }
    }

    /// No model has more, and a folder that has is of something else.
    public static let maximumDepth = 16
    public static let maximumEntries = 100_000

    public let folder: String
    /// In the order of the bytes of their names; a folder comes before what is in it.
    public private(set) var entries: [Entry] = []

    /// - Parameter entering: whether to look into a folder.
    /// - Throws: `FileError.excessive` for a folder with more in it, or folders nested deeper, than the limits say; `.missing`, `.system`.
    public init(of folder: String, entering: (Entry) -> Bool = { _ in true }) throws(FileError) {
        self.folder = folder
        try add(prefix: "", depth: 1, entering)
    }

    private mutating func add(prefix: String, depth: Int, _ entering: (Entry) -> Bool) throws(FileError) {
        guard depth <= Self.maximumDepth else {
            throw .excessive(path: folder, reason: "folders in it are nested more than \(Self.maximumDepth) deep, as \(prefix.dropLast())")
        }
        for name in try FileSystem.names(in: prefix.isEmpty ? folder : FileSystem.join(folder, prefix)) {
            guard entries.count < Self.maximumEntries else {
                throw .excessive(path: folder, reason: "more than \(Self.maximumEntries) files and folders lie in it")
            }
            // A name that is not text cannot be asked for.
            let entry = Entry(path: prefix + name, kind: FileSystem.kind(of: FileSystem.join(folder, prefix + name)) ?? .other)
            entries.append(entry)
            if entry.kind == .folder, entering(entry) { try add(prefix: entry.path + "/", depth: depth + 1, entering) }
        }
    }
}

/// Which links of a model's folder lead to what belongs to it: its own files, and the store that the Hugging Face cache links to.
public struct ModelLinks: Sendable {
    private let root: String?
    /// The folder of the files that `snapshots/REVISION` of a cached model links to.
    private let store: String?

    public init(folder: String) {
        root = FileSystem.resolved(folder)
        let parts = (root ?? "").utf8.split(separator: UInt8(ascii: "/")).map { String(Substring($0)) }
        store = parts.indices.first { $0 + 2 < parts.count && parts[$0].hasPrefix("models--") && parts[$0 + 1] == "snapshots" }
            .map { "/" + parts[...$0].joined(separator: "/") + "/blobs" }
    }

    /// Where a link of the folder leads, if that is a file which belongs to it.
    public func target(of link: String) -> String? {
        guard let root, let target = FileSystem.resolved(link), FileSystem.kind(of: target) == .file else { return nil }
        return target.utf8.starts(with: (root + "/").utf8) || FileSystem.parent(of: target) == store ? target : nil
    }
}
