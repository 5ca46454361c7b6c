#if canImport(Darwin)
    internal import Darwin
#else
    internal import Glibc
#endif

/// Why a file could not be read or written.
public enum FileError: Error, Sendable, Equatable {
    /// Nothing is at the path.
    case missing(path: String)
    /// Something is at the path and it is not a regular file (or not a folder, where a folder is needed).
    case wrongKind(path: String, expected: String)
    /// The output exists already and nobody said that it may be replaced.
    case exists(path: String)
    /// What is at the path is not what `--force` replaces.
    case irreplaceable(path: String, reason: String)
    /// The folder that should hold the output does not exist or may not be written.
    case cannotCreate(path: String, reason: String)
    /// The system refused an operation.
    case system(operation: String, path: String, errno: Int32)
    /// The file is larger than the reader is prepared to take into memory.
    case tooLarge(path: String, bytes: Int, limit: Int)
    /// The folder holds more than the reader is prepared to go through.
    case excessive(path: String, reason: String)
    /// The file shrank while it was open.
    case truncated(path: String, offset: Int, wanted: Int)
}

extension FileError {
    /// The same error of a file that the user knows under another folder's name.
    func inFolder(_ shown: String, inPlaceOf working: String) -> FileError {
        func name(_ path: String) -> String { path.hasPrefix(working + "/") ? shown + path.dropFirst(working.count) : path }
        return switch self {
        case .missing(let path): .missing(path: name(path))
        case .wrongKind(let path, let expected): .wrongKind(path: name(path), expected: expected)
        case .exists(let path): .exists(path: name(path))
        case .irreplaceable(let path, let reason): .irreplaceable(path: name(path), reason: reason)
        case .cannotCreate(let path, let reason): .cannotCreate(path: name(path), reason: reason)
        case .system(let operation, let path, let code): .system(operation: operation, path: name(path), errno: code)
        case .tooLarge(let path, let bytes, let limit): .tooLarge(path: name(path), bytes: bytes, limit: limit)
        case .excessive(let path, let reason): .excessive(path: name(path), reason: reason)
        case .truncated(let path, let offset, let wanted): .truncated(path: name(path), offset: offset, wanted: wanted)
        }
    }
}

extension FileError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .missing(let path):
            "\(path): there is no such file or folder; check the path"
        case .wrongKind(let path, let expected):
            "\(path): this is not \(expected); name one"
        case .exists(let path):
            "\(path): the output exists already; choose another name or allow replacing it with --force"
        case .irreplaceable(let path, let reason):
            "\(path): --force does not replace this: \(reason); choose another name or move it away"
        case .cannotCreate(let path, let reason):
            "\(path): the output cannot be made (\(reason)); check the folder and its permissions"
        case .system(let operation, let path, let code) where code == ENOSPC:
            "\(path): \(operation) failed because the disk is full; nothing was published, free some space and run again"
        case .system(let operation, let path, let code) where code == EACCES || code == EPERM:
            "\(path): \(operation) failed: \(errorText(code)); check the permissions of the file or folder and of those that it lies in"
        case .system(let operation, let path, let code):
            "\(path): \(operation) failed: \(errorText(code))"
        case .tooLarge(let path, let bytes, let limit):
            "\(path): the file has \(bytes) bytes, more than the \(limit) that a file of this kind may have"
        case .excessive(let path, let reason):
            "\(path): \(reason), and no model or pack has that; check the path"
        case .truncated(let path, let offset, let wanted):
            "\(path): the file ended at byte \(offset) where \(wanted) more bytes were expected; it changed while it was read"
        }
    }
}

/// The system's words for an error number.
func errorText(_ code: Int32) -> String {
    // Sound: both C libraries keep the text in static or thread-local storage, and it is copied at once.
    guard let text = unsafe strerror(code) else { return "error \(code)" }
    return unsafe String(cString: text)
}
