#if canImport(Darwin)
    internal import Darwin
#else
    internal import Glibc
#endif

extension FileSystem {
    /// Lets nobody read what this process makes from here on who may not read all of `paths` and the files in those that are folders.
    public static func restrictPermissions(to paths: [String]) {
        var allowed: mode_t = 0o777
        for path in paths { allowed &= readers(of: path) }
        let before = umask(0o077)
        _ = umask(before | ~allowed & 0o077)
    }

    /// The permissions of a file's readers and writers, each of whom may then enter a folder, too; for a folder those of what is in it.
    private static func readers(of path: String) -> mode_t {
        var info = stat()
        guard unsafe stat(path, &info) == 0 else { return 0o777 }
        let readable = info.st_mode & 0o444
        guard info.st_mode & S_IFMT == S_IFDIR else { return info.st_mode & 0o666 | readable >> 2 }
        // Whoever may not enter it reads nothing in it; whoever may does so by name.
        let enterable = info.st_mode & 0o111
        var allowed = enterable | enterable << 2 | info.st_mode & 0o222
        // The parts of a model lie one folder down, and what is hidden is not read.
        let listing = try? FolderListing(of: path) { entry in
            !entry.path.utf8.contains(UInt8(ascii: "/")) && entry.name.utf8.first != UInt8(ascii: ".")
        }
        for entry in listing?.entries ?? [] where [.file, .link].contains(entry.kind) && entry.name.utf8.first != UInt8(ascii: ".") {
            let file = join(path, entry.path)
            if !isFolder(file) { allowed &= readers(of: file) }
        }
        return allowed
    }
}
