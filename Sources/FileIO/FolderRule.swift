/// Which folders this program may replace: those that hold nothing but what it wrote.
public struct FolderRule: Sendable {
    /// The path of the first entry that the program did not write; `nil` where there is none.
    public let firstForeign: @Sendable (FolderListing) -> String?

    /// - Parameter firstForeign: sees folders of files and folders alone; what else lies in one keeps it from being replaced.
    public init(_ firstForeign: @escaping @Sendable (FolderListing) -> String?) { self.firstForeign = firstForeign }

    /// Only files of these paths, and the folders that these need; a path that ends with a slash is an empty folder's.
    public static func holdingOnly(_ paths: some Sequence<String>) -> FolderRule {
        let files = Set(paths)
        var folders: Set<String> = []
        for path in files {
            var parent = path
            while let slash = parent.utf8.lastIndex(of: UInt8(ascii: "/")) {
                parent = String(Substring(parent.utf8[..<slash]))
                folders.insert(parent)
            }
        }
        return FolderRule { [folders] listing in
            listing.entries.first { $0.kind == .folder ? !folders.contains($0.path) : !files.contains($0.path) }?.path
        }
    }

    /// - Throws: `FileError.irreplaceable` where `path` is something else than a folder that may be replaced.
    func check(_ path: String, namedAs name: String) throws(FileError) {
        guard FileSystem.kind(of: path) == .folder else { throw .irreplaceable(path: name, reason: FileSystem.whatItIs(path)) }
        let listing: FolderListing
        do { listing = try FolderListing(of: path) } catch FileError.excessive(_, let reason) { throw .irreplaceable(path: name, reason: reason) }
        if let entry = listing.entries.first(where: { ![.file, .folder].contains($0.kind) }) {
            throw .irreplaceable(path: name, reason: "it holds \(entry.path), which is \(entry.kind.description)")
        }
        if let foreign = firstForeign(listing) {
            throw .irreplaceable(path: name, reason: "nothing says that oplora wrote \(foreign) in it")
        }
    }
}
