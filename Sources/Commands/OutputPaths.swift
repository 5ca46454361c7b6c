internal import FileIO

func isSameFile(_ first: String, _ second: String) -> Bool { FileSystem.areSame(first, second) }

/// Refuses an output that exists, before any work is done, and one that is an input, always.
func refuseExisting(_ path: String, replacing: Bool, inputs: [String]) throws {
    for input in inputs where FileSystem.areSame(path, input) {
        throw UsageError("\(path): the output is one of the inputs; an input is never overwritten, choose another name", status: .cannotCreateOutput)
    }
    if FileSystem.exists(path), !replacing { throw FileError.exists(path: path) }
    let parent = FileSystem.parent(of: path)
    guard FileSystem.isFolder(parent) else { throw FileError.cannotCreate(path: path, reason: "there is no folder \(parent)") }
}

/// The same for a file, and begins it once for a try: a place that cannot be written shows before the work and not after.
func refuseUnwritableFile(_ path: String, replacing: Bool, inputs: [String]) throws {
    try refuseExisting(path, replacing: replacing, inputs: inputs)
    _ = try AtomicFile(path: path, replacing: replacing)
}
