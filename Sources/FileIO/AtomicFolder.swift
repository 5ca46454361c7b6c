#if canImport(Darwin)
    internal import Darwin
#else
    internal import Glibc
#endif

/// A folder in the making that appears under its name only when everything in it is written.
///
/// A value that is dropped unpublished removes what it made.
public final class AtomicFolder {
    /// The final name.
    public let path: String
    /// Where the files are written until then.
    public let workingPath: String
    private let replacing: Bool
    private var published = false

    /// - Throws: `FileError.exists` when something is at `path` and `replacing` is false, `.wrongKind` when a file is
    ///   there, `.cannotCreate` when the parent is missing or may not be written.
    public init(path: String, replacing: Bool) throws(FileError) {
        if FileSystem.exists(path) {
            guard replacing else { throw .exists(path: path) }
            guard FileSystem.isFolder(path) else { throw .wrongKind(path: path, expected: "a folder that can be replaced") }
        }
        self.path = path
        self.replacing = replacing
        var attempt = 0
        while true {
            let name = FileSystem.siblingName(of: path, attempt: attempt)
            do {
                try FileSystem.createFolder(name)
                workingPath = name
                return
            } catch FileError.exists where attempt < 100 {
                attempt += 1
            } catch FileError.cannotCreate(_, let reason) {
                throw .cannotCreate(path: path, reason: reason)
            }
        }
    }

    deinit {
        if !published { try? FileSystem.remove(workingPath) }
    }

    /// The path of a file to be, inside the unfinished folder.
    public func path(of name: String) -> String {
        FileSystem.join(workingPath, name)
    }

    /// Writes files inside; an error of one names the folder as it will be called.
    public func fill<Result>(_ body: () throws -> Result) throws -> Result {
        do {
            return try body()
        } catch let error as FileError {
            throw error.inFolder(path, inPlaceOf: workingPath)
        }
    }

    /// Moves the folder to its name. An old folder there is moved aside first and removed after.
    public func publish(durable: Bool = true) throws(FileError) {
        if durable { try FileSystem.synchronize(folder: workingPath) }
        if replacing, FileSystem.exists(path) {
            let old = workingPath + ".old"
            try FileSystem.rename(path, to: old)
            do {
                try FileSystem.rename(workingPath, to: path)
            } catch {
                try? FileSystem.rename(old, to: path)
                throw error
            }
            published = true
            try FileSystem.remove(old)
        } else {
            try FileSystem.rename(workingPath, to: path)
            published = true
        }
        if durable { try FileSystem.synchronize(folder: FileSystem.parent(of: path)) }
    }
}
