public import FileIO
internal import Safetensors
public import Weights

/// A file that is not there itself: a pointer of Git LFS, a link to nothing, or what a download that failed has left, lies in its place.
public struct StandIn: Sendable {
    /// The path in the folder.
    public let name: String
    public let nature: FileNature

    /// `nil` for a file that is itself, as far as its first bytes tell.
    init?(_ name: String, in folder: String) {
        guard let nature = FileNature(path: FileSystem.join(folder, name)) else { return nil }
        switch nature {
        case .lfsPointer: break
        // Nothing else is certain of a file of any kind: many are empty, and some are web pages.
        case .brokenLink, .empty, .webPage, .xml: guard name.hasSuffix(".json") || TokenizerFiles.isVocabulary(name) else { return nil }
        default: return nil
        }
        (self.name, self.nature) = (name, nature)
    }

    /// Those among the files that belong to a model beside its weights.
    ///
    /// - Throws: `FileError`.
    public static func files(of model: ModelWeights) throws -> [StandIn] {
        guard FileSystem.isFolder(model.path) else { return [] }
        return try ModelFolder(model).copied.compactMap { StandIn($0, in: model.path) }
    }

    /// Those among the files of the tokenizer that an adapter brings.
    ///
    /// - Throws: `FileError`.
    public static func files(beside adapter: Adapter) throws -> [StandIn] {
        guard let files = try TokenizerFiles.files(of: adapter) else { return [] }
        return files.names.compactMap { StandIn($0, in: files.folder) }
    }
}

extension MergeError {
    init(_ file: StandIn, in folder: String) {
        self.init(.fileNotFetched, path: FileSystem.join(folder, file.name), file.nature.explanation)
    }
}
