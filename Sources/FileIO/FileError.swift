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
    /// What is at the path is not what may be replaced.
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
        case .missing(let path) where Self.isHubName(path):
            "\(path): there is no such file or folder, and nothing is downloaded"
        case .missing(let path) where FileSystem.kind(of: path) == .link:
            "\(path): \(FileNature.brokenLink.explanation)"
        case .missing(path: ""):
            "the name of an input is empty; give one"
        case .missing(let path):
            "\(path): there is no such file or folder; check the path"
        case .wrongKind(let path, let expected):
            "\(path): this is not \(expected); name one"
        case .exists(let path):
            "\(path): the output exists already"
        case .irreplaceable(let path, let reason):
            "\(path): this is never replaced: \(reason); choose another name or move it away"
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

extension FileError {
    /// Whether a path that leads nowhere reads like `OWNER/NAME`, a repository of the Hugging Face Hub: two plain words, the first of which is no
    /// folder, and the last no file's name.
    public static func isHubName(_ path: String) -> Bool {
        let parts = path.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
        func isPlain(_ part: Substring.UTF8View) -> Bool {
            let marks = Array("-_.".utf8)
            return part.first.map { $0 != UInt8(ascii: ".") && $0 != UInt8(ascii: "-") } == true
                && part.allSatisfy { byte in
                    marks.contains(byte) || (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
                }
        }
        guard parts.count == 2, parts.allSatisfy(isPlain), !FileSystem.exists(FileSystem.parent(of: path)) else { return false }
        // `Mistral-7B-v0.1` has a dot and no ending.
        guard let ending = parts[1].split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false).dropFirst().last else { return true }
        return ending.contains { (0x30...0x39).contains($0) }
    }
}

extension FileError {
    /// The system's words for an error number.
    public static func text(of code: Int32) -> String { errorText(code) }
}

/// The system's words for an error number.
func errorText(_ code: Int32) -> String {
    // Sound: both C libraries keep the text in static or thread-local storage, and it is copied at once.
    guard let text = unsafe strerror(code) else { return "error \(code)" }
    return unsafe String(cString: text)
}
