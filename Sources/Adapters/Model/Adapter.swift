internal import FileIO
internal import GGUF
internal import Methods
public import OrderedCollections
public import Safetensors
public import Weights

/// An adapter, whatever dialect it was stored in: low-rank updates of modules, and whatever was trained whole beside them.
public struct Adapter: Sendable {
    /// The dialects that are read.
    public enum Dialect: String, Sendable {
        case peft
        /// kohya's trainers and LyCORIS.
        case kohya
        case diffusers
        /// mlx-lm.
        case mlx
        /// llama.cpp.
        case gguf
        /// A training run of this project, collapsed in memory.
        case opck
        /// Hypernetworks that were trained elsewhere, collapsed in memory.
        case opLoRA = "op-lora"
        /// The difference between two models.
        case extraction
    }

    /// The file or folder that was opened.
    public let path: String
    public let dialect: Dialect
    /// The safetensors file that holds the factors; `nil` for an adapter made in memory.
    public let weightsPath: String?
    /// The model that the adapter says it was trained on: a hub name or a path.
    public let baseModel: String?
    /// The modules that the configuration says it adapts, as written there: names, or one regular expression.
    public let targets: [String]
    /// What PEFT calls the kind of the model, such as `CAUSAL_LM`.
    public let taskType: String?
    /// The adapted modules, sorted by path; none twice.
    public let modules: [AdapterModule]
    /// Tensors, or rows of them, that take the place of the base's, sorted by the tensor's name.
    public let replacements: [Replacement]
    /// What PEFT's configuration calls the modules that were trained whole, in `modules_to_save`.
    let savedModules: [String]
    /// Oddities that change nothing, each one sentence.
    public let remarks: [String]
    /// Whether the paths of the modules have underscores where the model's have dots.
    public let namesAreFlattened: Bool
    /// What the header of the file says beside the tensors.
    public let metadata: OrderedDictionary<String, String>

    public init(
        path: String, dialect: Dialect, weightsPath: String?, baseModel: String?, targets: [String], taskType: String? = nil,
        modules: [AdapterModule], replacements: [Replacement] = [], savedModules: [String] = [],
        remarks: [String] = [], namesAreFlattened: Bool = false, metadata: OrderedDictionary<String, String> = [:]
    ) {
        self.path = path
        self.dialect = dialect
        self.weightsPath = weightsPath
        self.baseModel = baseModel
        self.targets = targets
        self.taskType = taskType
        self.modules = modules.sorted { ($0.place, $0.parameter) < ($1.place, $1.parameter) }
        self.replacements = replacements.sorted { $0.tensor.utf8.lexicographicallyPrecedes($1.tensor.utf8) }
        self.savedModules = savedModules
        self.remarks = remarks
        self.namesAreFlattened = namesAreFlattened
        self.metadata = metadata
    }

    /// The file that holds the factors of the adapter at `path`; `nil` where there is none.
    ///
    /// - Parameter path: as for `read`.
    public static func weightsPath(at path: String) -> String? {
        guard FileSystem.isFolder(path) else {
            let names = [MLX.weightsName, PEFT.weightsName, Diffusers.weightsName]
            guard !names.contains(FileSystem.lastComponent(path)) else { return path }
            guard let file = try? SafetensorsFile(path: path) else { return nil }
            return isWhole(file) ? path : nil
        }
        let folder = (try? PEFT.adapterFolder(in: path)) ?? path
        let names = [MLX.weightsName, PEFT.weightsName, Diffusers.weightsName]
        return names.map { FileSystem.join(folder, $0) }.first(where: FileSystem.exists) ?? soleFile(in: path)
    }

    /// The only file of a folder, where it is an adapter by itself under a name of its own.
    private static func soleFile(in folder: String) -> String? {
        let hasConfiguration = FileSystem.exists(FileSystem.join(folder, PEFT.configurationName))
        guard !hasConfiguration, let path = ModelWeights.soleFile(in: folder), let file = try? SafetensorsFile(path: path) else { return nil }
        return isWhole(file) ? path : nil
    }

    /// Whether a file holds hypernetworks of OP-LoRA, which reading evaluates.
    public static func holdsHypernetworks(_ file: SafetensorsFile) -> Bool { OpLoRA.claims(file) || OpLoRAPrototype.claims(file) }

    /// Whether a file is an adapter by itself, with no configuration beside it, by the names of its first tensors.
    public static func isWhole(_ file: SafetensorsFile) -> Bool {
        let isWrapped = file.tensors.keys.prefix(claimedNames).contains { AdapterFile.unwrapped($0) != $0 }
        let file = isWrapped ? file.renaming(AdapterFile.unwrapped) : file
        return holdsHypernetworks(file) || Kohya.claims(file)
            || Diffusers.claims(file) && !file.tensors.keys.prefix(claimedNames).contains { $0.hasPrefix(PEFT.keyPrefix) }
    }

    /// How many names are looked at: a file of a model may have a hundred thousand, and an adapter shows itself at once.
    static let claimedNames = 16

    /// Opens an adapter of any dialect that is read.
    ///
    /// - Parameters:
    ///   - path: a folder of PEFT or mlx-lm, the safetensors file in it, or a file of kohya's trainers or diffusers, or the
    ///     folder in which diffusers wrote it; or a GGUF file, or hypernetworks in safetensors.
    ///   - base: the model that the adapter is for; only the OP-LoRA prototype's files need it.
    ///   - alpha: the alpha, for a file that gives none.
    /// - Throws: `AdapterError`, `SafetensorsError` or `FileError`.
    public static func read(path: String, base: BaseModel? = nil, alpha: AlphaChoice = .ofFile) throws -> Adapter {
        let adapter: Adapter
        do {
            adapter = try readUnchecked(path: soleFile(in: path) ?? path, base: base, alpha: alpha)
        } catch let error as AdapterError where error.code == .unknownDialect || error.code == .missingFile {
            guard error.path == path, FileSystem.isFolder(path), let nature = try FolderNature(of: path) else { throw error }
            throw AdapterError(nature.isMissing ? .missingFile : .unknownDialect, path: path, nature.explanation)
        }
        if adapter.dialect != .opLoRA {
            for module in adapter.modules { try alpha.check(module.alpha, rank: module.update.rank, module: module.label.text, path: path) }
        }
        guard let twice = firstTwice(adapter.modules) else { return adapter }
        throw AdapterError(.unexpectedTensor, path: path, subject: twice.label.text, "the adapter has two updates of the same parameter")
    }

    /// - Throws: `AdapterError.notFinite` for a factor, magnitude or bias that holds an infinity or NaN: nothing can be made of such an update.
    public func requireFinite() throws(AdapterError) {
        for module in modules {
            for matrix in module.matrices {
                do throws(UpdateFault) { try matrix.requireFinite() } catch { throw AdapterError(error, path: weightsPath ?? path) }
            }
        }
    }

    /// A module whose parameter another one of the modules updates, too.
    static func firstTwice(_ modules: [AdapterModule]) -> AdapterModule? {
        var seen: Set<String> = []
        return modules.first { !seen.insert($0.parameterName).inserted }
    }

    private static func readUnchecked(path: String, base: BaseModel?, alpha: AlphaChoice) throws -> Adapter {
        if MLX.claims(path) { return try MLX.read(path: path) }
        var single = path
        if FileSystem.isFolder(path) {
            single = FileSystem.join(path, Diffusers.weightsName)
            let isPEFT = FileSystem.exists(FileSystem.join(path, PEFT.weightsName))
            guard !isPEFT, FileSystem.exists(single) else { return try PEFT.read(path: path) }
        }
        if GGUFFile.claims(single) { return try GGUFAdapter.read(single, path: path) }
        let file = try AdapterFile.open(single)
        if OpLoRA.claims(file) { return try OpLoRA.read(file, path: path) }
        if OpLoRAPrototype.claims(file) { return try OpLoRAPrototype.read(file, path: path, base: base, alpha: alpha.number) }
        if Kohya.claims(file) { return try Kohya.read(file, path: path, alpha: alpha) }
        if file.tensors.keys.contains(where: { $0.hasPrefix(PEFT.keyPrefix) }) {
            let hasConfiguration = FileSystem.exists(FileSystem.join(FileSystem.parent(of: single), PEFT.configurationName))
            return hasConfiguration ? try PEFT.read(path: path) : try Diffusers.readOneModel(file, path: path, alpha: alpha)
        }
        if Diffusers.claims(file) { return try Diffusers.read(file, path: path, alpha: alpha) }
        if let refusal = OtherMethods.refusal(of: file) { throw refusal }
        return try PEFT.read(path: path)
    }
}

/// Values that take the place of the base's.
public struct Replacement: Sendable {
    /// The tensor's name in a model's files.
    public let tensor: String
    /// The values: the whole tensor, or one row for each of `rows`.
    public let values: StoredWeight
    /// The rows that they replace; `nil` for the whole tensor.
    public let rows: [Int]?
    /// Whether the adapter says that it was trained on a model with a module that the base may not have, of which this is a tensor.
    public let isOfNewModule: Bool
    /// Whether they are those of the layer itself on which an update comes, as the base had them.
    public let isOfAdaptedLayer: Bool

    public init(
        tensor: String, values: StoredWeight, rows: [Int]? = nil, isOfNewModule: Bool = false, isOfAdaptedLayer: Bool = false
    ) {
        self.tensor = tensor
        self.values = values
        self.rows = rows
        self.isOfNewModule = isOfNewModule
        self.isOfAdaptedLayer = isOfAdaptedLayer
    }

    /// The same values of a tensor of another name.
    func named(_ tensor: String) -> Replacement {
        Replacement(tensor: tensor, values: values, rows: rows, isOfNewModule: isOfNewModule, isOfAdaptedLayer: isOfAdaptedLayer)
    }
}
