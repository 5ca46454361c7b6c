internal import CFileIO
internal import Synchronization

#if canImport(Darwin)
    internal import Darwin
#else
    internal import Glibc
#endif

/// Files and folders that are being written under names of their own, beside the names that they will have.
///
/// All of them are made, published and given up under one lock. A program that must end at once takes it for good and removes what
/// there is: nothing comes to be after that, and nothing is half published.
public enum Unfinished {
    private struct State {
        var paths: Set<String> = []
        var published: Set<String> = []
    }

    private static let state = Mutex(State())

    /// Removes everything that is unfinished, and ends the program.
    ///
    /// - Parameter end: is told whether something was removed, and what has been published before, sorted.
    public static func abandon(_ end: (_ hadAny: Bool, _ published: [String]) -> Never) -> Never {
        state.withLock { state in
            for path in state.paths { try? FileSystem.remove(path) }
            end(!state.paths.isEmpty, state.published.sorted())
        }
    }

    /// Makes something under the first free name beside `path`.
    ///
    /// - Parameter make: returns an open descriptor, or `nil` with `errno` set.
    /// - Returns: the name, and the descriptor, which holds a lock as long as it is open: what can be locked is a leftover.
    static func begin(beside path: String, _ make: (_ name: String) -> Int32?) throws(FileError) -> (name: String, descriptor: Int32) {
        try state.withLock { state throws(FileError) in
            for attempt in 0...100 {
                let name = FileSystem.siblingName(of: path, attempt: attempt)
                guard let descriptor = make(name) else {
                    if errno == EEXIST { continue }
                    break
                }
                // Whoever cleans up may have come between the two, and has it then, or has removed it.
                if oplora_lock(descriptor) != EWOULDBLOCK, FileSystem.isOpen(name, as: descriptor) {
                    state.paths.insert(name)
                    return (name, descriptor)
                }
                close(descriptor)
            }
            throw .cannotCreate(path: path, reason: errorText(errno))
        }
    }

    /// Gives what is called `name` its final name, by `rename`.
    ///
    /// - Parameter isReused: whether something that is to be removed has the old name after it.
    static func publish(
        _ name: String, as path: String, isReused: Bool = false, _ rename: () throws(FileError) -> Void
    ) throws(FileError) {
        try state.withLock { state throws(FileError) in
            // What lies in an unfinished folder is published with that.
            let isWithin = state.paths.contains { path.utf8.starts(with: ($0 + "/").utf8) }
            if !isWithin { try MappedFile.requireWhole() }
            try rename()
            if !isReused { state.paths.remove(name) }
            if !isWithin { state.published.insert(path) }
        }
    }

    /// Removes what was not published.
    static func discard(_ name: String) throws(FileError) {
        try state.withLock { state throws(FileError) in
            state.paths.remove(name)
            try FileSystem.remove(name)
        }
    }

    /// Does something that must not happen any more once the program ends.
    static func unlessEnding<Result>(_ body: () throws(FileError) -> Result) throws(FileError) -> Result {
        try state.withLock { _ throws(FileError) in try body() }
    }
}

extension Unfinished {
    /// Removes what runs that were killed have left beside `path`, and gives an output back its name that such a run had moved aside.
    ///
    /// What another run is still writing is locked by it, and stays; so does everything on a disk that has no locks.
    public static func removeLeftovers(beside path: String) {
        guard let names = try? FileSystem.names(in: FileSystem.parent(of: path)) else { return }
        let places = names.filter { FileSystem.isSiblingName($0, of: path) }.map { FileSystem.join(FileSystem.parent(of: path), $0) }
        let asides = places.filter { $0.hasSuffix(AtomicFolder.asideEnding) }
        for aside in asides { settle(aside, of: path) }
        for place in places where !asides.contains(place) && !FileSystem.exists(place + AtomicFolder.asideEnding) {
            withLock(of: place) { try? FileSystem.remove(place) }
        }
    }

    /// An old folder that was moved aside and not removed.
    private static func settle(_ aside: String, of path: String) {
        let new = String(aside.dropLast(AtomicFolder.asideEnding.count))
        if !FileSystem.exists(new) {
            // The new one has its name.
            try? FileSystem.remove(aside)
        } else if !FileSystem.exists(path) {
            withLock(of: new) { try? FileSystem.renameWithoutReplacing(aside, to: path) }
        }
        // Otherwise somebody has made another one since, and nobody has agreed that the old one goes.
    }

    private static func withLock(of place: String, _ body: () -> Void) {
        let flags = FileSystem.kind(of: place) == .folder ? O_RDONLY | O_DIRECTORY : O_RDWR
        let descriptor = unsafe open(place, flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else { return }
        defer { close(descriptor) }
        if oplora_lock(descriptor) == 0, FileSystem.isOpen(place, as: descriptor) { body() }
    }
}
