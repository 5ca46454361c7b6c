import Adapters
import FileIO
import JSON
import OrderedCollections
import Tensors
import TestModels
import TestSupport
import Testing
import Verification

/// What PEFT saves of vocabularies that grew, of tensors that the base does not have, and of parameters by their bare names.
struct VocabularyTests {
    private typealias Case = AdapterKindTests.Case

    /// A base with an embedding and a head of its own, and an adapter that trained both.
    private func grown(rows: Int = 10) throws -> (item: Case, values: [String: [Double]]) {
        let item = try Case()
        item.modelConfiguration["vocab_size"] = 8
        item.configuration["modules_to_save"] = ["embed_tokens", "lm_head"]
        var values: [String: [Double]] = [:]
        for module in ["model.embed_tokens", "lm_head"] {
            item.addBase(module + ".weight", [8, 4])
            values[module + ".weight"] = item.add(module + ".weight", [rows, 4])
        }
        return (item, values)
    }

    /// The three copies that PEFT saves where it sees that the vocabulary has another size.
    private func addCopies(_ item: Case) {
        for tensor in item.adapter {
            let module = tensor.name.dropLast("weight".count)
            item.adapter.append(TestTensor(module + "modules_to_save.weight", tensor.dtype, tensor.shape, bytes: tensor.bytes))
            item.adapter.append(
                TestTensor(module + "original_module.weight", tensor.dtype, tensor.shape, bytes: [UInt8](repeating: 0, count: tensor.bytes.count)))
        }
    }

    @Test(arguments: [10, 5])
    func aGrownOrShrunkenVocabularyIsTakenWithItsCopies(rows: Int) throws {
        let (item, values) = try grown(rows: rows)
        addCopies(item)
        try item.expect(values)
        #expect(try JSONValue(parsing: try readAll(item.folder.path("merged/config.json")))["vocab_size"] == .integer(rows))
        // The two that were trained are not the same.
        item.adapter[2].bytes[0] ^= 1
        do {
            _ = try item.plan()
            Issue.record("copies that differ were let pass")
        } catch let error as AdapterError {
            #expect(error.code == .unexpectedTensor && error.message.contains("not clear"))
        }
    }

    /// PEFT saves the grown matrix, and the rows that were trained.
    @Test(arguments: [false, true])
    func trainedRowsMayBeNewOnes(isTied: Bool) throws {
        let item = try Case()
        item.modelConfiguration["vocab_size"] = 8
        item.modelConfiguration["tie_word_embeddings"] = .bool(isTied)
        item.configuration["trainable_token_indices"] = [8, 9]
        var expected: [String: [Double]] = [:]
        for module in ["model.embed_tokens", "lm_head"] {
            if !isTied || expected.isEmpty { item.addBase(module + ".weight", [8, 4]) }
            var values = item.add(module + ".token_adapter.base_layer.weight", [10, 4], dtype: .bf16)
            values.replaceSubrange(32..<40, with: item.add(module + ".token_adapter.trainable_tokens_delta", [2, 4]))
            expected[module + ".weight"] = values
        }
        if isTied {
            (item.adapter[2].bytes, item.adapter[3].bytes) = (item.adapter[0].bytes, item.adapter[1].bytes)
            expected["lm_head.weight"] = nil
        }
        try item.expect(expected)
        // Rows that the grown matrix does not have.
        item.configuration["trainable_token_indices"] = [8, 10]
        try item.refused(.shapeMismatch)
    }

    /// Rows of the head alone are no rows of the embedding, though the two were one matrix.
    @Test func rowsOfTheHeadAloneSeparateATiedModel() throws {
        let item = try Case()
        item.modelConfiguration["tie_word_embeddings"] = true
        item.configuration["trainable_token_indices"] = ["lm_head": [3]]
        item.addBase("model.embed_tokens.weight", [8, 4])
        var head = item.weights("model.embed_tokens.weight")
        head.replaceSubrange(12..<16, with: item.add("lm_head.token_adapter.trainable_tokens_delta", [1, 4]))
        try item.expect(["lm_head.weight": head])
    }

    /// A tensor that the base does not have, and whether it may be added.
    @Test(arguments: [
        ("score.weight", true), ("classifier.out_proj.bias", true), ("qa_outputs.weight", true), ("language_model.lm_head.weight", false),
        ("model.score.weight", false), ("model.layers.7.q_proj.bias", false), ("v_head.summary.weight", false),
    ])
    func onlyANewModuleIsAdded(name: String, isAdded: Bool) throws {
        let item = try Case()
        item.configuration["modules_to_save"] = ["score", "classifier", "qa_outputs", "lm_head", "summary"]
        item.configuration["bias"] = "all"
        item.addBase("model.layers.0.q_proj.weight", [4, 4])
        let values = item.add(name, [2, 4], dtype: .bf16)
        if isAdded { try item.expect([name: values]) } else { try item.refused(.moduleNotInBase) }
    }

    /// The names that PEFT gives the stacks of experts and the router for the usual list of targets.
    @Test(arguments: ["mlp", "block_sparse_moe"])
    func parametersAreFoundByTheirBareNames(block: String) throws {
        let item = try Case()
        let (count, hidden, inner) = (3, 4, 5)
        item.configuration["target_modules"] = ["q_proj"]
        item.configuration["target_parameters"] = ["gate_up_proj", "down_proj", "gate.weight"]
        item.configuration["rank_pattern"] = [#".*\.gate_up_proj"#: 4]
        item.configuration["alpha_pattern"] = [#".*\.gate_up_proj"#: 6]
        var expected: [String: [Double]] = [:]
        func expect(_ name: String, _ rows: Int, _ columns: Int, _ term: (Int, Int) -> Double) {
            item.addBase(name, [rows, columns])
            expected[name] = item.weights(name).enumerated().map { $1 + 1.5 * term($0 / columns, $0 % columns) }
        }
        for (module, file, rows) in [("self_attn.q_proj", "self_attn.q_proj", hidden), ("mlp.gate", "\(block).gate", count)] {
            let a = item.add("l.0.\(module).lora_A.weight", [2, hidden])
            let b = item.add("l.0.\(module).lora_B.weight", [rows, 2])
            expect("l.0.\(file).weight", rows, hidden) { o, i in (0..<2).reduce(0) { $0 + b[o * 2 + $1] * a[$1 * hidden + i] } }
        }
        let gateA = item.add("l.0.mlp.experts.base_layer.lora_A.weight", [count * 4, hidden])
        let gateB = item.add("l.0.mlp.experts.base_layer.lora_B.weight", [2 * inner, 4 * count])
        let downA = item.add("l.0.mlp.experts.lora_A.weight", [count * 2, inner])
        let downB = item.add("l.0.mlp.experts.lora_B.weight", [hidden, 2 * count])
        let names = block == "mlp" ? ["gate_proj", "up_proj", "down_proj"] : ["w1", "w3", "w2"]
        for e in 0..<count {
            for half in 0..<2 {
                expect("l.0.\(block).experts.\(e).\(names[half]).weight", inner, hidden) { o, i in
                    (0..<4).reduce(0) { $0 + gateB[(half * inner + o) * 4 * count + $1 * count + e] * gateA[(e * 4 + $1) * hidden + i] }
                }
            }
            expect("l.0.\(block).experts.\(e).\(names[2]).weight", hidden, inner) { o, i in
                (0..<2).reduce(0) { $0 + downB[o * 2 * count + $1 * count + e] * downA[(e * 2 + $1) * inner + i] }
            }
        }
        try item.expect(expected)
        // The targets as one expression.
        item.configuration["target_modules"] = #".*self_attn\.(q|v)_proj"#
        try item.expect(expected)
        // Another rank than the factors have makes other experts.
        item.configuration["rank_pattern"] = [#".*\.gate_up_proj"#: 2]
        try item.refused(.shapeMismatch)
    }
}
