public import Execution
internal import Kernels
internal import Methods
internal import NativeCheckpoint
internal import Training

extension CollapsedRun {
    /// The parameters as the verifier takes them, straight from the file: it evaluates them in its own way.
    public func verifierModules() throws -> [RunModule] {
        var values: [String: [Float]] = [:]
        for tensor in parameters.tensors { values[tensor.name] = tensor.state.parameters.array }
        return try parameters.modules.map { module in
            func tensor(_ name: String) throws -> [Float] {
                guard let array = values["\(module.name).\(name)"] else {
                    throw TrainingError(.invalidCheckpoint, "\(checkpoint.file.path): the run has no tensor \(module.name).\(name)")
                }
                return array
            }
            let path = try modulePath(module)
            guard checkpoint.subject.configuration.method.type.hasHypernetworks else {
                return .plain(
                    path: path, rank: checkpoint.subject.configuration.rank, loraA: try tensor("lora_A"), loraB: try tensor("lora_B"),
                    magnitudes: values["\(module.name).magnitude"])
            }
            return .hypernetwork(
                HypernetworkParameters(
                    path: path, rank: checkpoint.subject.configuration.rank, inputs: module.input, outputs: module.out,
                    z: try tensor("hypernetwork.z"),
                    w1: try tensor("hypernetwork.W1"), c1: try tensor("hypernetwork.c1"), w2: try tensor("hypernetwork.W2"),
                    c2: try tensor("hypernetwork.c2")))
        }
    }
}
