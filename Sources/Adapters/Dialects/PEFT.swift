internal import FileIO
internal import JSON
internal import Kernels
internal import OrderedCollections
internal import Safetensors
internal import Tensors
internal import Weights

/// The dialect of the PEFT library: a folder with `adapter_config.json` and `adapter_model.safetensors`.
///
/// Source: PEFT 0.21, `PeftConfigMixin.save_pretrained`, `get_peft_model_state_dict` and `get_pattern_key`.
public enum PEFT {
    public static let weightsName = "adapter_model.safetensors"
    public static let configurationName = PEFTConfiguration.fileName
    static let keyPrefix = "base_model.model."
    /// What the names of tensors begin with that all modules share.
    static let sharedPrefix = "base_model."

    /// Opens an adapter. Every tensor of the file is part of a module, or the error names it.
    ///
    /// - Parameter path: the folder, or the safetensors file in it.
    /// - Throws: `AdapterError`, `SafetensorsError` or `FileError`.
    public static func read(path: String) throws -> Adapter {
        let status = try FileSystem.status(of: path)
        let folder = status.isFolder ? try adapterFolder(in: path) : FileSystem.parent(of: path)
        let configurationPath = FileSystem.join(folder, configurationName)
        let weightsPath = status.isFolder ? FileSystem.join(folder, weightsName) : path
        guard FileSystem.exists(configurationPath) else {
            if status.isFolder, !FileSystem.exists(weightsPath) {
                throw AdapterError(
                    .missingFile, path: path,
                    "the folder holds no adapter: no \(configurationName) of PEFT or mlx-lm, no \(Diffusers.weightsName) and no single adapter in "
                        + "safetensors, but \(try FolderNature.contents(of: path)); name the folder or the file of an adapter")
            }
            throw AdapterError(
                .missingFile, path: path,
                "there is no \(configurationName) beside \(weightsName), and without it the scale is not known; fetch it from where the adapter came from"
            )
        }
        guard FileSystem.exists(weightsPath) else {
            let isPickled = FileSystem.exists(FileSystem.join(folder, "adapter_model.bin"))
            throw AdapterError(
                isPickled ? .unknownDialect : .missingFile, path: path,
                isPickled
                    ? "the weights are a pickle (adapter_model.bin), which is not read; save the adapter again as safetensors"
                    : "the folder has no \(weightsName)")
        }
        let fields = try PEFTConfiguration.fields(path: configurationPath)
        let file = try AdapterFile.open(weightsPath)
        let configuration = try PEFTConfiguration(fields, path: configurationPath)
        var reading = try PEFTReading(file: file, configuration: configuration)
        try reading.read()
        return Adapter(
            path: path, dialect: .peft, weightsPath: weightsPath, baseModel: configuration.baseModel, targets: configuration.targets,
            taskType: configuration.taskType, modules: reading.modules, replacements: reading.replacements,
            savedModules: configuration.modulesToSave, remarks: reading.remarks, metadata: file.metadata)
    }

    /// The folder itself, or the one in it that holds an adapter: PEFT puts adapters of another name than `default` there. A
    /// folder with the weights of a model is that model's.
    static func adapterFolder(in path: String) throws -> String {
        let names = try FileSystem.names(in: path)
        let isOwn = names.contains { $0 == configurationName || $0 == ModelWeights.indexName || $0.hasSuffix(".safetensors") }
        guard !isOwn else { return path }
        let inner = names.filter {
            FileSystem.exists(FileSystem.join(FileSystem.join(path, $0), configurationName))
        }
        // Which state of a training is meant, nobody but its owner can say, even where there is one.
        guard inner.count < 2, !inner.contains(where: FolderNature.isCheckpoint) else {
            throw AdapterError(
                .missingFile, path: path, "the folder itself is no adapter and holds \(inner.joined(separator: ", ")); name the folder of one")
        }
        return inner.first.map { FileSystem.join(path, $0) } ?? path
    }
}
