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
///
/// What has no content of its own, such as a named pipe or `/dev/null`, is written to as it is.
public final class AtomicFile: ByteSink {
    public let path: String
    /// Bytes written so far.
    public private(set) var position = 0

    /// Where the bytes go until then; `nil` where they go through.
    private let sibling: String?
    private let replacing: Bool
    private var descriptor: Int32
    private var isSettled = false
    private var buffer: [UInt8] = []
    private static let bufferLimit = 1 << 16
    /// Large writes begin and end at a multiple of this place in the file, so that the system fills whole pages of it.
    private static let pageSize = 1 << 12

    /// Starts a file that will replace or create `path`.
    ///
    /// - Throws: `FileError.exists` when something is there and `replacing` is false, `.irreplaceable` when it is no
    ///   regular file, `.cannotCreate` when the folder is missing or may not be written.
    public init(path: String, replacing: Bool) throws(FileError) {
        self.path = path
        self.replacing = replacing
        if let stream = ByteStream(path: path) {
            (sibling, descriptor) = (nil, try stream.open())
            return
        }
        try Self.requireReplaceable(path, replacing: replacing)
        (sibling, descriptor) = try Unfinished.begin(beside: path) { name in
            let opened = unsafe open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o666)
            return opened < 0 ? nil : opened
        }
    }

    deinit {
        if !isSettled, let sibling { try? Unfinished.discard(sibling) }
        if descriptor >= 0 { close(descriptor) }
    }

    /// Checks that a file may come to be at `path`, where something may be already.
    ///
    /// - Throws: as `init`.
    public static func requireReplaceable(_ path: String, replacing: Bool) throws(FileError) {
        guard !path.hasSuffix("/") else { throw .cannotCreate(path: path, reason: "the name of a file does not end with a slash") }
        guard let kind = FileSystem.kind(of: path) else { return }
        guard replacing else { throw .exists(path: path) }
        guard kind == .file else { throw .irreplaceable(path: path, reason: FileSystem.whatItIs(path)) }
    }

    /// Asks the system to set room aside for `size` bytes in all: a full disk is known before anything is written, and writing is
    /// faster, since no page needs to look for its place. A system or disk that cannot do this does without.
    ///
    /// - Throws: `FileError.system` when there is no room.
    public func reserve(_ size: Int) throws(FileError) {
        // In a small file it costs more than it saves.
        guard size >= 1 << 20, sibling != nil else { return }
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
        if durable, sibling != nil, fsync(descriptor) != 0 { throw .system(operation: "synchronising", path: path, errno: errno) }
        guard let sibling else { return try finishWriting() }
        // The lock goes with the last descriptor, and what is not locked may be taken for a leftover.
        let lock = dup(descriptor)
        defer { close(lock) }
        // Whatever happens, nothing is left to be removed after this.
        isSettled = true
        do {
            try finishWriting()
            try Unfinished.publish(sibling, as: path) { () throws(FileError) in
                try Self.requireReplaceable(path, replacing: replacing)
                if replacing { try FileSystem.rename(sibling, to: path) } else { try FileSystem.renameWithoutReplacing(sibling, to: path) }
            }
        } catch {
            try? Unfinished.discard(sibling)
            throw error
        }
        if durable { try FileSystem.synchronize(folder: FileSystem.parent(of: path)) }
    }

    /// Closes the file; some systems say only now that they could not write.
    private func finishWriting() throws(FileError) {
        let closing = close(descriptor)
        descriptor = -1
        guard closing == 0 else { throw .system(operation: "closing", path: path, errno: errno) }
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
                let error = written == 0 ? ENOSPC : errno
                // Bytes that the system could not take are those of a mapped file that was cut.
                let isCut = error == EFAULT
                let fault = isCut ? unsafe bytes.extracting(done..<bytes.byteCount).withUnsafeBytes { unsafe Self.fault(in: $0) } : nil
                throw fault ?? .system(operation: "writing", path: path, errno: error)
            }
        }
    }

    private static func fault(in bytes: UnsafeRawBufferPointer) -> FileError? {
        guard let start = bytes.baseAddress else { return nil }
        return unsafe MappedFile.fault(at: start)
    }

    private static func systemWrite(_ descriptor: Int32, _ bytes: UnsafeRawBufferPointer) -> Int {
        #if canImport(Darwin)
            unsafe Darwin.write(descriptor, bytes.baseAddress, bytes.count)
        #else
            unsafe Glibc.write(descriptor, bytes.baseAddress, bytes.count)
        #endif
    }
}
