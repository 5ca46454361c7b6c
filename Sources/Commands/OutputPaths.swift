internal import FileIO

func isSameFile(_ first: String, _ second: String) -> Bool { FileSystem.areSame(first, second) }

/// Whether a file or folder lies in a folder, however the two are written.
private func lies(_ path: String, in folder: String) -> Bool {
    guard FileSystem.isFolder(folder) else { return false }
    var parent = FileSystem.isFolder(path) ? FileSystem.join(path, "..") : FileSystem.parent(of: path)
    // A folder that is its own parent is the root.
    while !FileSystem.areSame(parent, FileSystem.join(parent, "..")) {
        if FileSystem.areSame(parent, folder) { return true }
        parent = FileSystem.join(parent, "..")
    }
    return false
}

/// Refuses an output that exists, before any work is done, and one that is an input, always.
func refuseExisting(_ path: String, replacing: Bool, inputs: [String]) throws {
    for input in inputs where FileSystem.areSame(path, input) || FileSystem.exists(path) && (lies(path, in: input) || lies(input, in: path)) {
        throw UsageError(
            "\(path): the output is one of the inputs, or a part of one; an input is never overwritten, choose another name",
            status: .cannotCreateOutput)
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

/// Writes a report, which appears under its name only when it is whole.
func writeReport(_ text: String, to path: String, replacing: Bool) throws {
    let file = try AtomicFile(path: path, replacing: replacing)
    try file.write(Array(text.utf8))
    try file.publish()
}
