internal import Adapters
internal import FileIO

func isSameFile(_ first: String, _ second: String) -> Bool { FileSystem.areSame(first, second) }

/// What a command writes under a name.
enum OutputKind {
    /// What a person or a program reads beside the result.
    case report
    case file
    /// With what it may take the place of.
    case folder(FolderRule)
}

extension Adapter.Layout {
    /// What an adapter of this layout is.
    var output: OutputKind {
        switch self {
        case .peft, .diffusers, .mlx: .folder(WrittenFolder.rule)
        case .kohya, .gguf, .safetensors: .file
        }
    }
}

/// Refuses, before any work is done, inputs that are missing or not what they should be, and then an output that cannot or must not be made:
/// one that exists and may not be replaced, and one that is an input, always. What earlier runs have left beside it is removed, and nothing
/// that the command makes from here on can be read by more people than its inputs.
func refuseExisting(_ path: String, as kind: OutputKind, replacing: Bool, inputs: [Input]) throws {
    try refuseNameless(path)
    for input in inputs { try input.requireReadable() }
    try refuseExisting(path, as: kind, replacing: replacing, besides: inputs.map(\.path))
}

private func refuseNameless(_ path: String) throws {
    guard !path.isEmpty else { throw UsageError("the name of an output is empty; give one") }
}

private func refuseExisting(_ path: String, as kind: OutputKind, replacing: Bool, besides inputs: [String]) throws {
    try refuseInput(path, inputs: inputs)
    if let stream = ByteStream(path: path), try goesThrough(stream, kind) { return }
    FileSystem.restrictPermissions(to: inputs + [path])
    let parent = FileSystem.parent(of: path)
    guard FileSystem.isFolder(parent) else { throw FileError.cannotCreate(path: path, reason: "there is no folder \(parent)") }
    Unfinished.removeLeftovers(beside: path)
    switch kind {
    case .report, .file: try AtomicFile.requireReplaceable(path, replacing: replacing)
    case .folder(let rule):
        for input in inputs where lies(path, in: input) {
            throw UsageError("\(path): the output would lie in \(input), which is read; choose a place outside of it", status: .cannotCreateOutput)
        }
        try AtomicFolder.requireReplaceable(path, by: replacing ? rule : nil)
    }
}

/// The same for a file, and begins it once for a try: a place that cannot be written shows before the work and not after.
func refuseUnwritableFile(_ path: String, as kind: OutputKind = .report, replacing: Bool, inputs: [Input]) throws {
    try refuseUnwritableFiles([path], as: kind, replacing: replacing, inputs: inputs)
}

/// Likewise for several, and for none, which is of the inputs alone.
func refuseUnwritableFiles(_ paths: [String], as kind: OutputKind = .report, replacing: Bool, inputs: [Input]) throws {
    for path in paths { try refuseNameless(path) }
    for input in inputs { try input.requireReadable() }
    for path in paths {
        try refuseExisting(path, as: kind, replacing: replacing, besides: inputs.map(\.path))
        if ByteStream(path: path) == nil { _ = try AtomicFile(path: path, replacing: replacing) }
    }
}

/// Writes a report, which appears under its name only when it is whole.
func writeReport(_ text: String, to path: String, replacing: Bool) throws {
    let file = try AtomicFile(path: path, replacing: replacing)
    try file.write(Array(text.utf8))
    try file.publish()
}

private func refuseInput(_ path: String, inputs: [String]) throws {
    for input in inputs where FileSystem.areSame(path, input) || FileSystem.exists(path) && (lies(path, in: input) || lies(input, in: path)) {
        throw UsageError(
            "\(path): the output is one of the inputs, or a part of one; an input is never overwritten, choose another name",
            status: .cannotCreateOutput)
    }
}

/// Whether a file or folder lies, or would lie, in a folder, however the two are written.
private func lies(_ path: String, in folder: String) -> Bool {
    var parent = FileSystem.isFolder(path) ? FileSystem.join(path, "..") : FileSystem.parent(of: path)
    guard FileSystem.isFolder(folder), FileSystem.isFolder(parent) else { return false }
    // A folder that is its own parent is the root.
    while !FileSystem.areSame(parent, FileSystem.join(parent, "..")) {
        if FileSystem.areSame(parent, folder) { return true }
        parent = FileSystem.join(parent, "..")
    }
    return false
}

/// Whether an output goes through a named pipe or a device.
private func goesThrough(_ stream: ByteStream, _ kind: OutputKind) throws -> Bool {
    switch kind {
    case .report: return true
    case .file:
        guard stream.isStandardOutput else { return true }
        throw UsageError(
            "\(stream.path): what the command prints goes to standard output, and a file that is mixed with it is none; name a file or a named pipe",
            status: .cannotCreateOutput)
    case .folder: return false
    }
}
