internal import FileIO

extension AtomicFolder {
    /// Makes the folders that a file of this path needs, or of an empty folder's path itself.
    func makeFolders(for path: String) throws(FileError) {
        var made = ""
        // By bytes: in Swift's characters a slash and a combining mark after it are one.
        for part in path.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false).dropLast() {
            made = made.isEmpty ? String(Substring(part)) : made + "/" + String(Substring(part))
            if !FileSystem.exists(self.path(of: made)) { try FileSystem.createFolder(self.path(of: made)) }
        }
    }
}
