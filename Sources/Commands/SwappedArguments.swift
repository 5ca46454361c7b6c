internal import Adapters
internal import FileIO
internal import GGUF
internal import Inspection
internal import JSON
internal import LanguageModel
internal import OrderedCollections
internal import Safetensors
internal import Verification
internal import Weights

/// A path and the option that it was given with; an argument without one has an empty name.
struct NamedPath {
    let option: String
    let path: String

    init(_ option: String, _ path: String) { (self.option, self.path) = (option, path) }

    fileprivate var subject: String { option.isEmpty ? path : "\(option) \(path)" }
}

/// A command that takes models and adapters, which are easily given in each other's place.
protocol TakesModelsAndAdapters {
    var models: [NamedPath] { get }
    var adapters: [NamedPath] { get }
}

extension TakesModelsAndAdapters {
    /// Which arguments were given in each other's place, as a sentence; `nil` where each is what it should be. For commands that failed: they
    /// know only that something is missing.
    func swappedArguments(_ error: any Error) -> String? {
        switch error {
        case is AdapterError, is MergeError, is SafetensorsError, is GGUFError, is TransformerError, is Verdict, FileError.exists: break
        // A file that a model's folder has and an adapter's has not.
        case FileError.missing(let path) where models.contains { path.hasPrefix($0.path) && path != $0.path }: break
        default: return nil
        }
        for model in models where Self.isAdapter(model.path) {
            return "\(model.subject) is an adapter, not a model\(adapters.isEmpty ? "" : "; name a model there, and the adapter with --adapter")"
        }
        for adapter in adapters {
            guard let tensor = Self.wholeWeight(adapter.path) else { continue }
            let way = models.contains { $0.option == "--base" } ? "; name a model with --base, and an adapter of it here" : ""
            return "\(adapter.subject) is a model, not an adapter: it holds whole weights, such as \(tensor)\(way)"
        }
        let (base, merged) = (models.first { $0.option == "--base" }, models.first { $0.option == "--merged" })
        if let base, let merged, Self.hasReceipt(base.path), !Self.hasReceipt(merged.path) {
            return "\(base.subject) holds the receipt of a merge and \(merged.subject) holds none; they may have been given in each other's place"
        }
        return nil
    }

    private static func hasReceipt(_ path: String) -> Bool { FileSystem.exists(FileSystem.join(path, MergeDescription.receiptName)) }

    private static func isAdapter(_ path: String) -> Bool {
        if !FileSystem.isFolder(path), GGUFFile.claims(path) { return (try? GGUFFile(path: path)).flatMap(AdapterDescription.init) != nil }
        // A model that was trained further in place may have the configuration of an adapter beside its weights.
        guard let files = try? ModelWeights(path: path) else { return Adapter.weightsPath(at: path) != nil }
        return files.shards.count == 1 && AdapterMethod(tensors: files.tensors.keys) != nil
    }

    /// A tensor of a file or folder that is a model's.
    private static func wholeWeight(_ path: String) -> String? {
        // An adapter may hold whole weights beside its factors.
        guard let files = try? ModelWeights(path: path), AdapterMethod(tensors: files.tensors.keys) == nil, (try? Adapter.read(path: path)) == nil
        else { return nil }
        return files.tensors.keys.first { [.attention, .mlp, .norm, .embedding, .head].contains(TensorRole(name: $0)) }
    }
}
