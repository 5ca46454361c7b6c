internal import Synchronization

#if canImport(Darwin)
    internal import Darwin
#else
    internal import Glibc
#endif

/// A whole file, mapped read-only into memory; unmapped when the last reference goes.
///
/// The bytes are those of the file, not a copy: if another process truncates the file while it is mapped, or the disk cannot be
/// read, touching the missing pages is a fault (SIGBUS); `fault(at:)` says of which file. Files that this project writes are
/// replaced by rename and never truncated in place, so a reader keeps the version that it opened.
@safe public final class MappedFile: Sendable {
    public let path: String
    public let count: Int
    private let descriptor: Int32
    private nonisolated(unsafe) let base: UnsafeRawPointer?

    /// Maps the file at `path`.
    ///
    /// - Throws: `FileError.missing`, `.wrongKind` for a folder or device, `.system` when opening or mapping fails.
    public init(path: String) throws(FileError) {
        let status = try FileSystem.status(of: path)
        guard status.isRegularFile else { throw .wrongKind(path: path, expected: "a regular file") }
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw .system(operation: "opening", path: path, errno: errno) }
        var isOpen = false
        defer { if !isOpen { close(descriptor) } }
        self.path = path
        self.descriptor = descriptor
        // The size is taken from the open file, not from the path, which may have been replaced meanwhile.
        var opened = stat()
        guard unsafe fstat(descriptor, &opened) == 0 else {
            throw .system(operation: "examining", path: path, errno: errno)
        }
        count = Int(opened.st_size)
        guard count > 0 else {
            unsafe base = nil
            isOpen = true
            return
        }
        guard let address = unsafe mmap(nil, count, PROT_READ, MAP_PRIVATE, descriptor, 0), unsafe address != MAP_FAILED
        else { throw .system(operation: "mapping", path: path, errno: errno) }
        unsafe base = UnsafeRawPointer(address)
        isOpen = true
        let (mapping, place) = (Mapping(path: path, count: count, descriptor: descriptor), UInt(bitPattern: address))
        Self.mappings.withLock { $0[place] = mapping }
    }

    deinit {
        if let base = unsafe base {
            let place = UInt(bitPattern: base)
            let error = Self.mappings.withLock { $0.removeValue(forKey: place)?.shortening }
            if let error, Self.isWatching { Self.shortened.withLock { $0 = $0 ?? error } }
            unsafe munmap(UnsafeMutableRawPointer(mutating: base), count)
        }
        close(descriptor)
    }

    /// All bytes of the file.
    public var bytes: RawSpan {
        @_lifetime(borrow self) get {
            // Sound: the mapping lives as long as `self`, whose lifetime the span depends on.
            let buffer = unsafe UnsafeRawBufferPointer(start: base, count: count)
            return unsafe _overrideLifetime(buffer.bytes, borrowing: self)
        }
    }

    /// A part of the file. The range has been checked against `count` by whoever parsed it out of the file.
    @_lifetime(borrow self)
    public func bytes(in range: Range<Int>) -> RawSpan {
        let span = bytes.extracting(range)
        return unsafe _overrideLifetime(span, borrowing: self)
    }

    /// Copies a part of the file into `target`, without touching the mapping: for a single pass over much data, which the system
    /// then reads in larger steps than pages, and which is at once in the caches of whoever works on it.
    ///
    /// - Precondition: the file has the range, and `target` as many bytes.
    /// - Throws: `FileError.truncated` when the file has become shorter, `.system`.
    public func copyBytes(in range: Range<Int>, to target: inout MutableRawSpan) throws(FileError) {
        precondition(range.upperBound <= count && target.byteCount >= range.count)
        var done = 0
        while done < range.count {
            // Sound: the pointer is used only during the call, for at most the bytes that are there.
            let read = unsafe target.withUnsafeMutableBytes {
                unsafe pread(descriptor, $0.baseAddress.map { unsafe $0 + done }, range.count - done, range.lowerBound + done)
            }
            if read > 0 {
                done += read
            } else if read < 0, errno == EINTR {
                continue
            } else if read < 0 {
                throw .system(operation: "reading", path: path, errno: errno)
            } else {
                throw .truncated(path: path, offset: range.lowerBound + done, wanted: range.count - done)
            }
        }
    }

    /// What Linux maps around a page when it is first touched, aligned to itself.
    private static let window = 1 << 16

    /// Tells the system that the pages of `range` will not be needed again, so that a pass over a file larger than
    /// memory does not keep all of it resident. Pages that were mapped along with them go as well.
    public func release(_ range: Range<Int>) {
        guard let base = unsafe base, !range.isEmpty else { return }
        let page = Int(getpagesize())
        let start = range.lowerBound / Self.window * Self.window
        let end = min((range.upperBound + Self.window - 1) / Self.window * Self.window, (count + page - 1) / page * page)
        guard start < end else { return }
        // Sound: read-only private pages are read again from the file when touched later.
        unsafe madvise(UnsafeMutableRawPointer(mutating: base + start), end - start, MADV_DONTNEED)
    }
}

extension MappedFile {
    private struct Mapping {
        let path: String
        let count: Int
        let descriptor: Int32

        /// The file's size now.
        var size: Int? {
            var now = stat()
            return unsafe fstat(descriptor, &now) == 0 ? Int(now.st_size) : nil
        }

        /// What is wrong where the file has become shorter.
        var shortening: FileError? {
            guard let size, size < count else { return nil }
            return .truncated(path: path, offset: size, wanted: count - size)
        }
    }

    /// By their addresses.
    private static let mappings = Mutex<[UInt: Mapping]>([:])
    /// Of the files that are not mapped any more, the first that has become shorter while it was.
    private static let shortened = Mutex<FileError?>(nil)

    /// Why the page of a mapped file at an address could not be given; `nil` where there is no mapped file.
    public static func fault(at address: UnsafeRawPointer) -> FileError? {
        let place = UInt(bitPattern: address)
        return mappings.withLock { mappings in
            guard let (start, mapping) = mappings.first(where: { $0.key <= place && place - $0.key < UInt($0.value.count) }) else { return nil }
            guard let size = mapping.size, size <= Int(place - start) else { return .system(operation: "reading", path: mapping.path, errno: EIO) }
            return mapping.shortening
        }
    }

    private static let watching = Atomic<Bool>(false)
    private static var isWatching: Bool { watching.load(ordering: .relaxed) }

    /// From here on `requireWhole` tells of files that were cut, and no output is published that may come from one. For a program that
    /// ends when it says so.
    public static func watch() { watching.store(true, ordering: .relaxed) }

    /// Checks that no file has become shorter while it was mapped: what is cut off of its last page is zeros, and no fault.
    ///
    /// - Throws: `FileError.truncated`.
    public static func requireWhole() throws(FileError) {
        guard isWatching else { return }
        if let error = shortened.withLock({ $0 }) ?? mappings.withLock({ $0.values.lazy.compactMap(\.shortening).first }) { throw error }
    }
}
