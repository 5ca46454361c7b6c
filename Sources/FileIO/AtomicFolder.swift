internal import CFileIO

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
    private let rule: FolderRule?
    /// Holds the lock.
    private let descriptor: Int32
    private var published = false

    /// What the name of an old folder ends with that is moved aside, where two names cannot be exchanged.
    static let asideEnding = ".old"

    /// - Parameter rule: which folders may be replaced; without it none.
    /// - Throws: `FileError.exists` when something is at `path` and nothing may be replaced, `.irreplaceable` when it is not what may be
    ///   replaced, `.cannotCreate` when the parent is missing or may not be written.
    public init(path: String, replacing rule: FolderRule?) throws(FileError) {
        try Self.requireReplaceable(path, by: rule)
        self.path = path
        self.rule = rule
        (workingPath, descriptor) = try Unfinished.begin(beside: path) { name in
            guard unsafe mkdir(name, 0o777) == 0 else { return nil }
            let opened = unsafe open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
            guard opened < 0 else { return opened }
            let error = errno
            _ = unsafe rmdir(name)
            errno = error
            return nil
        }
    }

    deinit {
        if !published { try? Unfinished.discard(workingPath) }
        close(descriptor)
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

    /// Checks that a folder may come to be at `path`, where something may be already.
    ///
    /// - Throws: as `init`.
    public static func requireReplaceable(_ path: String, by rule: FolderRule?) throws(FileError) {
        guard FileSystem.exists(path) else { return }
        guard let rule else { throw .exists(path: path) }
        try rule.check(path, namedAs: path)
    }

    /// Moves the folder to its name. An old folder there gives way in the same step, where the system can do that, and is then removed.
    ///
    /// - Throws: as `init`, when something has come to be there in the meantime.
    public func publish(durable: Bool = true) throws(FileError) {
        if durable { try FileSystem.synchronize(folder: workingPath) }
        if rule != nil, FileSystem.exists(path) {
            try replace()
        } else {
            try Unfinished.publish(workingPath, as: path) { () throws(FileError) in
                try FileSystem.renameWithoutReplacing(workingPath, to: path)
            }
            published = true
        }
        if durable { try FileSystem.synchronize(folder: FileSystem.parent(of: path)) }
    }

    private func replace() throws(FileError) {
        try Self.requireReplaceable(path, by: rule)
        var old = workingPath
        try Unfinished.publish(workingPath, as: path, isReused: true) { () throws(FileError) in
            let error = unsafe oplora_rename(workingPath, path, oplora_renaming_exchanges)
            guard error != ENOTSUP else {
                old += Self.asideEnding
                return try replaceInTwoSteps(movingOldTo: old)
            }
            guard error == 0 else { throw .system(operation: "exchanging it for the new folder", path: path, errno: error) }
            // Under this name nobody puts anything more into it.
            do throws(FileError) { try rule?.check(old, namedAs: path) } catch let foreign {
                if unsafe oplora_rename(workingPath, path, oplora_renaming_exchanges) != 0 {
                    // It must not be taken for something that may be removed.
                    try FileSystem.renameWithoutReplacing(workingPath, to: path + ".replaced")
                }
                throw foreign
            }
        }
        published = true
        try Unfinished.discard(workingPath)
        try FileSystem.remove(old)
    }

    private func replaceInTwoSteps(movingOldTo old: String) throws(FileError) {
        try FileSystem.rename(path, to: old)
        do {
            try FileSystem.rename(workingPath, to: path)
        } catch {
            try? FileSystem.rename(old, to: path)
            throw error
        }
    }
}
