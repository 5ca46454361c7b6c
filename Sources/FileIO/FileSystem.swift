internal import CFileIO

#if canImport(Darwin)
    internal import Darwin
#else
    internal import Glibc
#endif

/// Questions to the file system, and the few changes to it that are not the writing of a file.
public enum FileSystem {
    public struct Status: Sendable {
        public let isRegularFile: Bool
        public let isFolder: Bool
        public let byteCount: Int
        /// Device and inode: two paths with the same identity are the same file.
        public let identity: [UInt64]
    }

    /// What is at `path`, symbolic links followed.
    ///
    /// - Throws: `FileError.missing` when nothing is there, `.system` when the system refuses to tell.
    public static func status(of path: String) throws(FileError) -> Status {
        var info = stat()
        guard unsafe stat(path, &info) == 0 else {
            throw errno == ENOENT || errno == ENOTDIR
                ? .missing(path: path) : .system(operation: "examining", path: path, errno: errno)
        }
        let kind = info.st_mode & S_IFMT
        return Status(
            isRegularFile: kind == S_IFREG, isFolder: kind == S_IFDIR, byteCount: Int(info.st_size),
            identity: [UInt64(info.st_dev), UInt64(info.st_ino)])
    }

    public enum Kind: Sendable {
        case file, folder, link, namedPipe, characterDevice, other

        fileprivate init(_ mode: mode_t) {
            switch mode & S_IFMT {
            case S_IFREG: self = .file
            case S_IFDIR: self = .folder
            case S_IFLNK: self = .link
            case S_IFIFO: self = .namedPipe
            case S_IFCHR: self = .characterDevice
            default: self = .other
            }
        }

        var description: String {
            switch self {
            case .file: "a file"
            case .folder: "a folder"
            case .link: "a link"
            case .namedPipe: "a named pipe"
            case .characterDevice: "a device"
            case .other: "neither a file nor a folder"
            }
        }
    }

    /// What is at `path`, a link being one itself; `nil` where nothing is or the system does not say.
    public static func kind(of path: String) -> Kind? {
        var info = stat()
        return unsafe lstat(path, &info) == 0 ? Kind(info.st_mode) : nil
    }

    /// `it is a link to X`.
    static func whatItIs(_ path: String) -> String {
        guard let kind = kind(of: path) else { return "it is gone" }
        return "it is \(kind.description)" + (kind == .link ? resolved(path).map { " to \($0)" } ?? " that leads nowhere" : "")
    }

    public static func exists(_ path: String) -> Bool { kind(of: path) != nil }

    /// Whether `path` itself is a link, wherever it leads.
    public static func isSymbolicLink(_ path: String) -> Bool { kind(of: path) == .link }

    /// The path without links in it; `nil` where nothing is.
    public static func resolved(_ path: String) -> String? {
        guard let text = unsafe realpath(path, nil) else { return nil }
        // Sound: the text is one of the system's, which this call owns.
        defer { unsafe free(text) }
        return unsafe String(cString: text)
    }

    /// Whether a name is that of an open file or folder.
    static func isOpen(_ path: String, as descriptor: Int32) -> Bool {
        var named = stat(), opened = stat()
        return unsafe lstat(path, &named) == 0 && fstat(descriptor, &opened) == 0 && named.st_dev == opened.st_dev && named.st_ino == opened.st_ino
    }

    public static func isFolder(_ path: String) -> Bool {
        (try? status(of: path).isFolder) ?? false
    }

    /// Whether both paths name the same file or folder.
    public static func areSame(_ first: String, _ second: String) -> Bool {
        guard let a = try? status(of: first), let b = try? status(of: second) else { return false }
        return a.identity == b.identity
    }

    /// The names in a folder, sorted by their bytes, without `.` and `..`.
    public static func names(in folder: String) throws(FileError) -> [String] {
        guard let stream = unsafe opendir(folder) else {
            throw errno == ENOENT ? .missing(path: folder) : .system(operation: "listing", path: folder, errno: errno)
        }
        defer { unsafe closedir(stream) }
        var names: [String] = []
        while let entry = unsafe readdir(stream) {
            // Sound: d_name is a NUL-terminated string inside the entry, valid until the next readdir.
            let name = unsafe withUnsafeBytes(of: &entry.pointee.d_name) { raw in
                unsafe String(decoding: raw.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
    }

    /// The whole content of a small file.
    ///
    /// - Throws: `FileError.tooLarge` when the file has more than `limit` bytes.
    public static func contents(of path: String, limit: Int) throws(FileError) -> [UInt8] {
        let size = try status(of: path).byteCount
        guard size <= limit else { throw .tooLarge(path: path, bytes: size, limit: limit) }
        let file = try MappedFile(path: path)
        guard file.count <= limit else { throw .tooLarge(path: path, bytes: file.count, limit: limit) }
        return unsafe file.bytes.withUnsafeBytes { unsafe Array($0) }
    }

    /// Bytes that this user may still write where `path` is, or will be; `nil` where the system does not say.
    public static func freeBytes(at path: String) -> Int? {
        var space = statvfs()
        guard unsafe statvfs(exists(path) ? path : parent(of: path), &space) == 0 else { return nil }
        let (bytes, overflow) = Int(truncatingIfNeeded: space.f_bavail).multipliedReportingOverflow(by: Int(truncatingIfNeeded: space.f_frsize))
        return overflow || bytes < 0 ? nil : bytes
    }

    public static func createFolder(_ path: String) throws(FileError) {
        try Unfinished.unlessEnding { () throws(FileError) in
            guard unsafe mkdir(path, 0o777) == 0 else {
                throw errno == EEXIST ? .exists(path: path) : .cannotCreate(path: path, reason: errorText(errno))
            }
        }
    }

    /// Gives a file or folder another name; a file, or an empty folder, that has it already gives way.
    public static func rename(_ old: String, to new: String) throws(FileError) {
        guard systemRename(old, new) == 0 else {
            throw .system(operation: "renaming \(lastComponent(old))", path: new, errno: errno)
        }
    }

    /// Gives a file or folder another name that nothing has.
    ///
    /// - Throws: `FileError.exists` when something has it, even if it came only just now.
    public static func renameWithoutReplacing(_ old: String, to new: String) throws(FileError) {
        let error = unsafe oplora_rename(old, new, oplora_renaming_keeps)
        guard error != 0 else { return }
        guard error != EEXIST else { throw .exists(path: new) }
        guard error == ENOTSUP else { throw .system(operation: "renaming \(lastComponent(old))", path: new, errno: error) }
        // A second name of a file is made or refused in one step, which a look and a renaming are not.
        if unsafe link(old, new) == 0 {
            guard unsafe unlink(old) == 0 else { throw .system(operation: "removing", path: old, errno: errno) }
            return
        }
        guard errno != EEXIST, !exists(new) else { throw .exists(path: new) }
        try rename(old, to: new)
    }

    /// Removes a file, or a folder with all that is in it, unless somebody else is quicker. Does not follow symbolic links.
    public static func remove(_ path: String) throws(FileError) {
        guard let kind = kind(of: path) else { return }
        if kind == .folder {
            for name in try names(in: path) { try remove(join(path, name)) }
        }
        guard unsafe kind == .folder ? rmdir(path) == 0 : unlink(path) == 0 || errno == ENOENT else {
            throw .system(operation: "removing", path: path, errno: errno)
        }
    }

    /// Makes the entries of a folder (new names, renames) survive a power cut.
    public static func synchronize(folder path: String) throws(FileError) {
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw .system(operation: "opening", path: path, errno: errno) }
        defer { close(descriptor) }
        // Some file systems cannot synchronise a folder and say EINVAL; there is nothing better to do on those.
        guard fsync(descriptor) == 0 || errno == EINVAL else {
            throw .system(operation: "synchronising", path: path, errno: errno)
        }
    }

    // MARK: Paths
    // Paths are cut by their bytes: in Swift's characters a slash and a combining mark after it are one.

    public static func join(_ folder: String, _ name: String) -> String {
        folder.hasSuffix("/") || folder.isEmpty ? folder + name : folder + "/" + name
    }

    /// The longest name of a file or folder that every common file system takes.
    public static let maximumNameBytes = 255

    /// The last component of a path, trailing slashes ignored.
    public static func lastComponent(_ path: String) -> String {
        path.utf8.split(separator: slash).last.map { String(Substring($0)) } ?? path
    }

    /// The folder that holds `path`: `.` for a bare name.
    public static func parent(of path: String) -> String {
        var trimmed = path.utf8[...]
        while trimmed.count > 1, trimmed.last == slash { trimmed.removeLast() }
        guard let end = trimmed.lastIndex(of: slash) else { return "." }
        return end == trimmed.startIndex ? "/" : String(Substring(trimmed[..<end]))
    }

    private static let slash = UInt8(ascii: "/")

    /// A name beside `path` for the unfinished version of it: same folder, so that a rename publishes it at once.
    static func siblingName(of path: String, attempt: Int) -> String {
        join(parent(of: path), siblingPrefix(of: path) + "\(getpid())-\(attempt)" + siblingEnding)
    }

    /// Whether a name in the same folder is that of an unfinished version, whoever makes it.
    static func isSiblingName(_ name: String, of path: String) -> Bool {
        let prefix = siblingPrefix(of: path)
        var rest = name.utf8[...]
        guard rest.starts(with: prefix.utf8) else { return false }
        rest = rest.dropFirst(prefix.utf8.count)
        for ending in [AtomicFolder.asideEnding, siblingEnding] where String(rest)?.hasSuffix(ending) ?? false {
            rest = rest.dropLast(ending.utf8.count)
        }
        let numbers = rest.split(separator: UInt8(ascii: "-"), omittingEmptySubsequences: false)
        return numbers.count == 2 && numbers.allSatisfy { !$0.isEmpty && $0.allSatisfy { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) } }
            && (name.hasSuffix(siblingEnding) || name.hasSuffix(siblingEnding + AtomicFolder.asideEnding))
    }

    private static func siblingPrefix(of path: String) -> String {
        // A long name is cut, for this one may not be longer than the system allows either.
        "." + String(decoding: lastComponent(path).utf8.prefix(200), as: UTF8.self) + "."
    }

    private static let siblingEnding = ".partial"

    private static func systemRename(_ old: String, _ new: String) -> Int32 {
        #if canImport(Darwin)
            unsafe Darwin.rename(old, new)
        #else
            unsafe Glibc.rename(old, new)
        #endif
    }
}
