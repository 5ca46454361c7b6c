#if canImport(Darwin)
    internal import Darwin
#else
    internal import Glibc
#endif

/// A path that bytes go through and that has no content of its own: a named pipe, a terminal, `/dev/null`, `/dev/stdout`.
///
/// It is written to as it is, at once, and nothing takes its place. Disks and sockets are none.
public struct ByteStream: Sendable {
    public let path: String
    /// Which of the descriptors that the program was started with, where the path names one. What it leads to may be a file, and to
    /// open that again would be to write over its beginning.
    private let number: Int32?

    public init?(path: String) {
        self.path = path
        number = Self.number(in: path)
        guard number == nil else { return }
        guard let target = FileSystem.resolved(path), let kind = FileSystem.kind(of: target), [.namedPipe, .characterDevice].contains(kind) else {
            return nil
        }
    }

    public var isStandardOutput: Bool { number == STDOUT_FILENO }

    func open() throws(FileError) -> Int32 {
        let opened = number.map { fcntl($0, F_DUPFD_CLOEXEC, 0) } ?? systemOpen()
        guard opened >= 0 else { throw .cannotCreate(path: path, reason: errorText(errno)) }
        return opened
    }

    private func systemOpen() -> Int32 {
        #if canImport(Darwin)
            unsafe Darwin.open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY)
        #else
            unsafe Glibc.open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY)
        #endif
    }

    private static func number(in path: String) -> Int32? {
        switch path {
        case "/dev/stdout": return STDOUT_FILENO
        case "/dev/stderr": return STDERR_FILENO
        default:
            for folder in ["/dev/fd/", "/proc/self/fd/"] where path.hasPrefix(folder) { return Int32(path.dropFirst(folder.count)) }
            return nil
        }
    }
}
