internal import CFileIO

#if canImport(Darwin)
    internal import Darwin
#else
    internal import Glibc
#endif

/// A file in the making that appears under its name only when it is whole.
///
/// Bytes go to a new sibling file. `publish` flushes it to the disk, renames it over the final name and flushes the
/// folder, so at every moment the name holds the old file or the new one. A value that is dropped unpublished removes
/// its sibling.
public final class AtomicFile: ByteSink {
    public let path: String
    /// Bytes written so far.
    public private(set) var position = 0

    private let sibling: String
    private let replacing: Bool
    private var descriptor: Int32
    private var buffer: [UInt8] = []
    private static let bufferLimit = 1 << 16
    /// Large writes begin and end at a multiple of this place in the file, so that the system fills whole pages of it.
    private static let pageSize = 1 << 12

    /// Starts a file that will replace or create `path`.
    ///
    /// - Throws: `FileError.exists` when something is there and `replacing` is false, `.wrongKind` when a folder is
    ///   there, `.cannotCreate` when the folder is missing or may not be written.
    public init(path: String, replacing: Bool) throws(FileError) {
        guard !path.hasSuffix("/") else { throw .cannotCreate(path: path, reason: "the name of a file does not end with a slash") }
        if FileSystem.exists(path) {
            guard replacing else { throw .exists(path: path) }
            guard !FileSystem.isFolder(path) else { throw .wrongKind(path: path, expected: "a file that can be replaced") }
        }
        self.path = path
        self.replacing = replacing
        var attempt = 0
        while true {
            let name = FileSystem.siblingName(of: path, attempt: attempt)
            let opened = unsafe open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o666)
            if opened >= 0 {
                sibling = name
                descriptor = opened
                return
            }
            guard errno == EEXIST, attempt < 100 else {
                throw .cannotCreate(path: path, reason: errorText(errno))
            }
            attempt += 1
        }
    }

    deinit {
        guard descriptor >= 0 else { return }
        close(descriptor)
        _ = unsafe unlink(sibling)
    }

    /// Asks the system to set room aside for `size` bytes in all: a full disk is known before anything is written, and writing is
    /// faster, since no page needs to look for its place. A system or disk that cannot do this does without.
    ///
    /// - Throws: `FileError.system` when there is no room.
    public func reserve(_ size: Int) throws(FileError) {
        // In a small file it costs more than it saves.
        guard size >= 1 << 20 else { return }
        let error = oplora_reserve(descriptor, Int64(position), Int64(size - position))
        guard error != ENOSPC, error != EDQUOT else { throw .system(operation: "reserving \(size) bytes", path: path, errno: error) }
    }

    /// Appends bytes.
    public func write(_ bytes: RawSpan) throws(FileError) {
        let flushed = position - buffer.count
        position += bytes.byteCount
        guard position - flushed > Self.bufferLimit else { return append(bytes) }
        // What is waiting is filled up to the end of its page, whole pages follow it, and the rest waits.
        let end = position / Self.pageSize * Self.pageSize
        let begin = min((flushed + buffer.count + Self.pageSize - 1) / Self.pageSize * Self.pageSize, end)
        let start = position - bytes.byteCount
        append(bytes.extracting(0..<begin - start))
        try flush()
        try writeThrough(bytes.extracting(begin - start..<end - start))
        append(bytes.extracting(end - start..<bytes.byteCount))
    }

    private func append(_ bytes: RawSpan) {
        // Sound: the bytes are copied before the call returns.
        unsafe bytes.withUnsafeBytes { unsafe buffer.append(contentsOf: $0) }
    }

    /// Makes the file whole and visible under its name.
    ///
    /// - Parameter durable: whether to wait until the disk holds it; without, a power cut may lose the new file, never
    ///   mix it with the old one.
    /// - Throws: `FileError.exists` when something has come to be there in the meantime that may not be replaced; `.system`.
    public func publish(durable: Bool = true) throws(FileError) {
        try flush()
        if durable, fsync(descriptor) != 0 { throw .system(operation: "synchronising", path: path, errno: errno) }
        let closing = close(descriptor)
        let closeError = errno
        descriptor = -1
        guard closing == 0 else {
            _ = unsafe unlink(sibling)
            throw .system(operation: "closing", path: path, errno: closeError)
        }
        do {
            if replacing {
                try FileSystem.rename(sibling, to: path)
            } else {
                try FileSystem.renameWithoutReplacing(sibling, to: path)
            }
        } catch {
            _ = unsafe unlink(sibling)
            throw error
        }
        if durable { try FileSystem.synchronize(folder: FileSystem.parent(of: path)) }
    }

    private func flush() throws(FileError) {
        guard !buffer.isEmpty else { return }
        let pending = buffer
        buffer.removeAll(keepingCapacity: true)
        // Sound: every bit pattern of a byte may be read as a raw byte.
        try writeThrough(unsafe pending.span.bytes)
    }

    private func writeThrough(_ bytes: RawSpan) throws(FileError) {
        var done = 0
        while done < bytes.byteCount {
            // Sound: the pointer is used only during the call.
            let written = unsafe bytes.extracting(done..<bytes.byteCount).withUnsafeBytes { unsafe Self.systemWrite(descriptor, $0) }
            if written > 0 {
                done += written
            } else if written < 0, errno == EINTR {
                continue
            } else {
                throw .system(operation: "writing", path: path, errno: written == 0 ? ENOSPC : errno)
            }
        }
    }

    private static func systemWrite(_ descriptor: Int32, _ bytes: UnsafeRawBufferPointer) -> Int {
        #if canImport(Darwin)
            unsafe Darwin.write(descriptor, bytes.baseAddress, bytes.count)
        #else
            unsafe Glibc.write(descriptor, bytes.baseAddress, bytes.count)
        #endif
    }
}
