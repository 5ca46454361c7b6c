import Adapters
import FileIO
import JSON
import Methods
import OrderedCollections
import Safetensors
import Tensors
import Verification
import Weights

/// A folder of the process with a file of weights and a configuration.
private struct ModelInput {
    let folder: String
    private let weightsName: String
    private let configuration: InputFile

    init(_ name: String, weightsName: String, configurationName: String) {
        folder = FileSystem.join(InputFile.folder, name)
        self.weightsName = weightsName
        configuration = InputFile(FileSystem.join(name, configurationName))
        try? FileSystem.createFolder(folder)
    }

    /// - Returns: whether the tensors can be in a file.
    func write(_ tensors: [SafetensorsWriter.Entry], configuration text: [UInt8], metadata: [String: String] = [:]) -> Bool {
        configuration.write(text)
        let path = FileSystem.join(folder, weightsName)
        guard let writer = try? SafetensorsWriter(path: path, entries: tensors, metadata: metadata, replacing: true) else { return false }
        for tensor in writer.order {
            // Small numbers in every element type that factors may have, and not all the same.
            let bytes = (0..<tensor.byteCount).map { UInt8($0 % tensor.dtypeWidth == tensor.dtypeWidth - 1 ? 0x3C : $0 * 37 % 251) }
            // Sound: every bit pattern of a byte may be read as a raw byte.
            guard (try? writer.write(unsafe bytes.span.bytes)) != nil else { return false }
        }
        return (try? writer.publish(durable: false)) != nil
    }
}

extension TensorInfo {
    fileprivate var dtypeWidth: Int { max(1, dtype.bitWidth / 8) }
}

private let base = ModelInput("base", weightsName: "model.safetensors", configurationName: "config.json")
private let dialects = [
    ModelInput("peft", weightsName: PEFT.weightsName, configurationName: PEFT.configurationName),
    ModelInput("mlx", weightsName: MLX.weightsName, configurationName: MLX.configurationName),
]
/// The dialects of one file: the configuration is a JSON object of strings, which goes into the header.
private let singleFile = ModelInput("single", weightsName: "adapter.safetensors", configurationName: "header.json")
private let ggufFile = InputFile("adapter.gguf")

/// One of each kind of weight that an adapter can meet; the embedding and the head are one.
private let isBaseWritten: Bool = {
    let shapes: [(String, [Int])] = [
        ("model.embed_tokens.weight", [8, 4]), ("l.0.q_proj.weight", [4, 4]), ("l.0.q_proj.bias", [4]), ("l.0.up_proj.weight", [6, 4]),
        ("l.0.conv.weight", [3, 4, 2, 2]), ("l.0.norm.weight", [4]), ("l.0.mlp.experts.gate_up_proj", [2, 6, 4]),
        ("l.0.mlp.experts.0.down_proj.weight", [4, 3]), ("l.0.mlp.experts.1.down_proj.weight", [4, 3]), ("l.0.steps", [2]),
    ]
    return base.write(
        shapes.map { .init(name: $0.0, dtype: $0.0 == "l.0.steps" ? .i64 : .bf16, shape: $0.1) },
        configuration: Array(#"{"architectures":["LlamaForCausalLM"],"tie_word_embeddings":true,"vocab_size":8}"#.utf8))
}()

/// An adapter: the number of its dialect, its configuration, and behind a NUL a line for each tensor with name, element type
/// and dimensions; or for GGUF the file.
///
/// Every tensor of an adapter that is accepted is in use, what is written in any layout is read back, and a merge that is made passes the
/// verifier.
func fuzzAdapter(_ bytes: [UInt8]) {
    guard isBaseWritten, let first = bytes.first, let (adapter, tensors) = adapter(kind: Int(first) % 4, Array(bytes.dropFirst())) else { return }
    for module in adapter.modules {
        require((module.rank > 0 || !module.isLowRank) && module.scale.isFinite, "\(module.label) has rank \(module.rank) and scale \(module.scale)")
    }
    if let tensors { requireUse(of: tensors, in: adapter) }
    requireReadingBack(adapter)

    let output = FileSystem.join(InputFile.folder, "merged")
    guard let plan = try? MergePlan(base: base.folder, adapters: [.init(adapter)]),
        (try? plan.run(to: output, options: .init(isReplacing: true, isDurable: false))) != nil
    else { return }
    do {
        let verdict = try MergeVerifier.verify(base: base.folder, adapters: plan.model.adapters, merged: output)
        // Rounding may have erased an update; that is no fault.
        require(verdict.outcome != .fail, "the verifier says \(verdict.faults.map(\.message))")
    } catch {
        fail("the verifier says \(error)")
    }
}

/// The adapter of an input, and its tensors where each is one part of a module.
private func adapter(kind: Int, _ bytes: [UInt8]) -> (Adapter, tensors: [SafetensorsWriter.Entry]?)? {
    if kind == 3 {
        ggufFile.write(bytes)
        return (try? Adapter.read(path: ggufFile.path)).map { ($0, nil) }
    }
    let parts = bytes.split(separator: 0, maxSplits: 1, omittingEmptySubsequences: false)
    guard parts.count == 2, let tensors = entries(parts[1]) else { return nil }
    guard kind == 2 else {
        let input = dialects[kind]
        guard input.write(tensors, configuration: Array(parts[0])) else { return nil }
        return (try? Adapter.read(path: input.folder)).map { ($0, tensors) }
    }
    let header = (try? JSONValue(parsing: Array(parts[0])))?.objectValue ?? [:]
    let metadata = Dictionary(header.compactMap { key, value in value.stringValue.map { (key, $0) } }, uniquingKeysWith: { $1 })
    guard singleFile.write(tensors, configuration: [], metadata: metadata), let model = try? BaseModel(path: base.folder) else { return nil }
    return (try? Adapter.read(path: FileSystem.join(singleFile.folder, "adapter.safetensors"), base: model, alpha: .number(2))).map { ($0, nil) }
}

private func entries(_ text: ArraySlice<UInt8>) -> [SafetensorsWriter.Entry]? {
    var tensors: [SafetensorsWriter.Entry] = []
    for line in text.split(separator: UInt8(ascii: "\n")).prefix(64) {
        let fields = line.split(separator: UInt8(ascii: " "))
        guard fields.count >= 2, let name = String(validating: fields[0], as: UTF8.self),
            let dtype = DType(rawValue: String(decoding: fields[1], as: UTF8.self))
        else { return nil }
        let shape = fields.dropFirst(2).compactMap { Int(String(decoding: $0, as: UTF8.self)) }
        guard shape.count == fields.count - 2, shape.count <= 6, let size = CheckedSize.byteCount(of: shape, dtype: dtype), size <= 1 << 12 else {
            return nil
        }
        tensors.append(.init(name: name, dtype: dtype, shape: shape))
    }
    return tensors
}

private func requireUse(of tensors: [SafetensorsWriter.Entry], in adapter: Adapter) {
    var used: [String: Int] = [:]
    // VeRA's frozen matrices are many modules'.
    guard !adapter.modules.contains(where: \.takesInputsOfWeight) else { return }
    for module in adapter.modules {
        // The experts of a stack are parts of the same tensors.
        for name in Set(module.matrices.map(\.name)) { used[name, default: 0] += 1 }
    }
    for replacement in adapter.replacements { used[replacement.values.name, default: 0] += 1 }
    for tensor in tensors { require(used[tensor.name] == 1, "\(tensor.name) is used \(used[tensor.name] ?? 0) times") }
}

/// Writes the adapter in each layout, as it is and named by the base: what a layout takes is read back with as many modules.
private func requireReadingBack(_ adapter: Adapter) {
    let output = FileSystem.join(InputFile.folder, "written.safetensors")
    let model = try? BaseModel(path: base.folder)
    let resized = (try? adapter.resized(to: .init(rank: 1, energy: 0.9)))?.adapter
    for candidate in [adapter, model.flatMap { try? $0.naming(adapter) }, resized, (try? adapter.uniform())?.adapter].compactMap({ $0 }) {
        for layout in Adapter.Layout.allCases {
            try? FileSystem.remove(output)
            guard (try? candidate.write(layout, to: output, base: model, options: .init(isReplacing: true, isDurable: false))) != nil else {
                continue
            }
            do {
                let read = try Adapter.read(path: output)
                // Gate and up projections of experts are one module for PEFT and two for mlx-lm.
                let hasExperts = candidate.modules.contains { $0.kind == .experts }
                require(hasExperts || read.modules.count == candidate.modules.count, "\(layout): \(read.modules.count) modules are read back")
            } catch {
                fail("\(layout): \(error)")
            }
        }
    }
}
