import Adapters
import FileIO
import OrderedCollections
import Safetensors
import Tensors
import Verification

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
    func write(_ tensors: [SafetensorsWriter.Entry], configuration text: [UInt8]) -> Bool {
        configuration.write(text)
        guard let writer = try? SafetensorsWriter(path: FileSystem.join(folder, weightsName), entries: tensors, metadata: [:], replacing: true)
        else { return false }
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
/// and dimensions. Every tensor of an adapter that is accepted is in use, and a merge that is made passes the verifier.
func fuzzAdapter(_ bytes: [UInt8]) {
    guard isBaseWritten, let first = bytes.first else { return }
    let parts = bytes.dropFirst().split(separator: 0, maxSplits: 1, omittingEmptySubsequences: false)
    guard parts.count == 2 else { return }
    var tensors: [SafetensorsWriter.Entry] = []
    for line in parts[1].split(separator: UInt8(ascii: "\n")).prefix(64) {
        let fields = line.split(separator: UInt8(ascii: " "))
        guard fields.count >= 2, let name = String(validating: fields[0], as: UTF8.self),
            let dtype = DType(rawValue: String(decoding: fields[1], as: UTF8.self))
        else { return }
        let shape = fields.dropFirst(2).compactMap { Int(String(decoding: $0, as: UTF8.self)) }
        guard shape.count == fields.count - 2, shape.count <= 6, let size = CheckedSize.byteCount(of: shape, dtype: dtype), size <= 1 << 12 else {
            return
        }
        tensors.append(.init(name: name, dtype: dtype, shape: shape))
    }
    let input = dialects[Int(first) % dialects.count]
    guard input.write(tensors, configuration: Array(parts[0])), let adapter = try? Adapter.read(path: input.folder) else { return }

    var used: [String: Int] = [:]
    for module in adapter.modules {
        let matrices = [module.loraA, module.loraB] + [module.magnitude, module.bias].compactMap { $0 }
        for matrix in matrices { used[matrix.name, default: 0] += 1 }
        require(module.rank > 0 && module.scale.isFinite, "\(module.label) has rank \(module.rank) and scale \(module.scale)")
    }
    for replacement in adapter.replacements { used[replacement.values.info.name, default: 0] += 1 }
    for tensor in tensors { require(used[tensor.name] == 1, "\(tensor.name) is used \(used[tensor.name] ?? 0) times") }

    let output = FileSystem.join(InputFile.folder, "merged")
    guard let plan = try? MergePlan(base: base.folder, adapters: [.init(adapter)]),
        (try? plan.run(to: output, options: .init(isReplacing: true, isDurable: false))) != nil
    else { return }
    do {
        let verdict = try MergeVerifier.verify(base: base.folder, adapters: plan.model.adapters, merged: output)
        require(verdict.passes, "the verifier says \(verdict.faults.map(\.message))")
    } catch {
        fail("the verifier says \(error)")
    }
}
