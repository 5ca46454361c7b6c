internal import Families
internal import FileIO
internal import JSON
internal import Safetensors
internal import Weights

extension BaseModel {
    /// diffusers' class of the denoiser, where the base is a model or a pipeline of diffusers.
    var denoiserClass: String? {
        if let name = configuration?["_class_name"]?.stringValue, !files.isPipeline { return name }
        let part = files.parts.first { DiffusionNames.denoisers.contains($0.name) }
        guard let part else { return nil }
        let file = FileSystem.join(FileSystem.join(path, part.name), Self.configurationName)
        return (try? Self.configuration(at: file))??["_class_name"]?.stringValue
    }

    /// The families that the denoiser may be of: one by its class, or those that have the names of its modules.
    var denoiserFamilies: [DiffusionFamily] { denoiserClass.map { [DiffusionFamily.of(className: $0)] } ?? index.families }

    /// Which of two denoisers is meant only the user can say: the files of adapters do not.
    ///
    /// - Throws: `MergeError.unsupportedCombination`.
    func requireComponent(of module: AdapterModule, adapter: String) throws(MergeError) {
        guard module.component == nil || module.component == DiffusionNames.anyDenoiser else { return }
        let parts = files.parts.map(\.name).filter(DiffusionNames.denoisers.contains)
        guard parts.count > 1 else { return }
        throw MergeError(
            .unsupportedCombination, path: adapter, tensor: module.parameterName,
            "the base has the denoisers \(parts.joined(separator: " and ")), and the adapter does not say for which it is",
            cause: .needsComponent)
    }
}
