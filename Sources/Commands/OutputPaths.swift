internal import Adapters
internal import FileIO

func isSameFile(_ first: String, _ second: String) -> Bool { FileSystem.areSame(first, second) }

/// What a command writes under a name.
enum OutputKind {
    /// What a person or a program reads beside the result.
    case report
    /// With the ending that a file of weights or a run has; `nil` for one of any kind.
    case file(ending: String?)
    /// With what it may take the place of; of an adapter other layouts are files.
    case folder(FolderRule, isAdapter: Bool = false)
}

extension Adapter.Layout {
    /// What an adapter of this layout is.
    var output: OutputKind {
        switch self {
        case .peft, .diffusers, .mlx: .folder(WrittenFolder.rule, isAdapter: true)
        case .kohya, .safetensors: .file(ending: ".safetensors")
        case .gguf: .file(ending: ".gguf")
        }
    }
}

/// Refuses, before any work is done, an output that cannot or must not be made: one that exists and may not be replaced, and one that is an
/// input, always. What is wrong with an input is said first. What earlier runs have left beside the output is removed, and nothing that the
/// command makes from here on can be read by more people than its inputs.
func refuseExisting(_ path: String, as kind: OutputKind, replacing: Bool, inputs: [Input]) throws {
    try refuseUnnameable(path)
    try sayingFirst(inputs) { try refuseExisting(path, as: kind, replacing: replacing, besides: inputs.map(\.path)) }
}

/// Refuses something for its output; inputs that the work opens anyway are opened only then.
private func sayingFirst(_ inputs: [Input], _ refuse: () throws -> Void) throws {
    for input in inputs where input.isRequirement { try input.requireReadable() }
    do {
        try refuse()
    } catch {
        for input in inputs { try input.requireReadable() }
        throw error
    }
}

private func refuseUnnameable(_ path: String) throws {
    guard !path.isEmpty else { throw UsageError("the name of an output is empty; give one") }
    guard FileSystem.lastComponent(path).utf8.count <= FileSystem.maximumNameBytes else {
        throw FileError.cannotCreate(path: path, reason: "its name has more than \(FileSystem.maximumNameBytes) bytes")
    }
}

private func refuseExisting(_ path: String, as kind: OutputKind, replacing: Bool, besides inputs: [String]) throws {
    try refuseInput(path, inputs: inputs)
    try refuseMisnamed(path, kind)
    if let stream = ByteStream(path: path), try goesThrough(stream, kind) { return }
    FileSystem.restrictPermissions(to: inputs + [path])
    let parent = FileSystem.parent(of: path)
    do throws(FileError) {
        guard try FileSystem.status(of: parent).isFolder else { throw .cannotCreate(path: path, reason: "\(parent) is not a folder") }
    } catch .missing {
        throw FileError.cannotCreate(path: path, reason: "there is no folder \(parent)")
    } catch .system(_, _, let code) {
        throw FileError.cannotCreate(path: path, reason: FileError.text(of: code))
    }
    Unfinished.removeLeftovers(beside: path)
    switch kind {
    case .report, .file: try AtomicFile.requireReplaceable(path, replacing: replacing)
    case .folder(let rule, _):
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
    for path in paths { try refuseUnnameable(path) }
    try sayingFirst(inputs) {
        for path in paths {
            try refuseExisting(path, as: kind, replacing: replacing, besides: inputs.map(\.path))
            if ByteStream(path: path) == nil { _ = try AtomicFile(path: path, replacing: replacing) }
        }
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

/// Endings of files that hold weights, which no folder is expected to have.
private let weightEndings = [".safetensors", ".gguf", ".opck", ".bin", ".pt", ".pth", ".ckpt"]

/// Refuses the name of a file for a folder and the other way round, and that of another format.
private func refuseMisnamed(_ path: String, _ kind: OutputKind) throws {
    let ending = weightEndings.first(where: path.lowercased().hasSuffix)
    switch kind {
    case .report, .file(ending: nil): return
    case .folder(_, let isAdapter):
        guard let ending, !FileSystem.isFolder(path) else { return }
        let layouts = [".safetensors": "kohya or safetensors", ".gguf": "gguf"][ending]
        let other = isAdapter ? layouts.map { ", or choose a layout that is a file: \($0)" } ?? "" : ""
        throw UsageError(
            "\(path): a folder is written, and this is the name of a file; name a folder, such as \(path.dropLast(ending.count))\(other)",
            status: .cannotCreateOutput)
    case .file(let own?):
        if FileSystem.isFolder(path) || path.hasSuffix("/") {
            throw UsageError(
                "\(path): one file is written, and this is the name of a folder; name a file, such as \(FileSystem.join(path, "name" + own))",
                status: .cannotCreateOutput)
        }
        guard let ending, ending != own else { return }
        throw UsageError(
            "\(path): readers take a file with the ending \(ending) for another format; name it with \(own)", status: .cannotCreateOutput)
    }
}

/// Whether a file or folder lies, or would lie, in a folder, however the two are written.
private func lies(_ path: String, in folder: String) -> Bool {
    var parent = FileSystem.isFolder(path) ? FileSystem.join(path, "..") : FileSystem.parent(of: path)
    guard FileSystem.isFolder(folder) else { return false }
    // Above a folder that may not be entered nothing is known.
    while FileSystem.isFolder(parent) {
        if FileSystem.areSame(parent, folder) { return true }
        let above = FileSystem.join(parent, "..")
        // A folder that is its own parent is the root.
        if FileSystem.areSame(parent, above) { return false }
        parent = above
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
            "\(stream.path): the file would be mixed with what the command prints; name a file or a named pipe",
            status: .cannotCreateOutput)
    case .folder: return false
    }
}
