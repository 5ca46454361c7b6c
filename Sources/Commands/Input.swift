internal import Adapters
internal import FileIO
internal import LanguageModel
internal import NativeCheckpoint
internal import Packing
internal import Safetensors
internal import Training
internal import Weights

/// What a command reads. What is wrong with it is said whether or not the output exists, and is looked for in its headers alone, so that the
/// output is judged before there is any work.
struct Input {
    let path: String
    /// Whether more is asked of it than what the work finds wrong when it opens it.
    let isRequirement: Bool
    private let check: () throws -> Void

    init(_ path: String, isRequirement: Bool = false, check: @escaping () throws -> Void) {
        (self.path, self.isRequirement, self.check) = (path, isRequirement, check)
    }

    /// - Throws: the errors of what it should be.
    func requireReadable() throws { try check() }

    /// Whatever can only be looked at by going through it.
    static func file(_ path: String) -> Input { Input(path) { if !FileSystem.exists(path) { throw FileError.missing(path: path) } } }

    static func model(_ path: String) -> Input { Input(path) { _ = try BaseModel(path: path) } }

    /// The weights of a model, whatever its configuration says.
    static func weights(_ path: String) -> Input { Input(path) { _ = try ModelWeights(path: path) } }

    /// A model that is run.
    static func transformer(_ path: String) -> Input {
        Input(path, isRequirement: true) {
            guard FileSystem.isFolder(path) || !FileSystem.exists(path) else {
                // What is wrong with the file itself comes first.
                _ = try ModelWeights(path: path)
                throw UsageError("\(path): a model is run from its folder, with config.json beside the weights; name the folder")
            }
            // They say what the folder is that holds no model.
            guard try !ModelWeights(path: path).isPipeline else {
                throw UsageError("\(path): this is a pipeline of a diffusion model, and only language models of the Llama family are run here")
            }
            _ = try TransformerConfiguration(folder: path)
        }
    }

    /// What tensors were packed against.
    static func differences(to path: String) -> Input { Input(path) { _ = try BaseFiles(path: path) } }

    static func run(_ path: String) -> Input { Input(path) { _ = try TrainingCheckpoint(path: path) } }

    /// An adapter or, its hypernetworks unevaluated, what one is made of.
    static func adapter(_ path: String, alpha: AlphaChoice = .ofFile) -> Input {
        Input(path) {
            if CheckpointFile.claims(path) {
                _ = try TrainingCheckpoint(path: path)
            } else if !holdsHypernetworks(path) {
                _ = try Adapter.read(path: path, alpha: alpha)
            }
        }
    }

    static func holdsHypernetworks(_ path: String) -> Bool {
        guard let weights = Adapter.weightsPath(at: path), let file = try? SafetensorsFile(path: weights) else { return false }
        return Adapter.holdsHypernetworks(file)
    }
}
