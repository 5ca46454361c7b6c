import FileIO
import JSON
import OrderedCollections
import Safetensors
import Tensors
import TestModels
import TestSupport
import Testing

/// A tied model with an adapter of its head, through the real program.
struct TiedModelTests {
    @Test func theHeadOfATiedVisionModelIsSeparated() throws {
        let space = try Workspace()
        let name = "model.language_model.embed_tokens.weight"
        let config: JSONValue = [
            "architectures": ["Qwen3VLForConditionalGeneration"], "model_type": "qwen3_vl", "text_config": ["tie_word_embeddings": true],
            "tie_word_embeddings": true,
        ]
        for folder in ["base", "adapter"] { try FileSystem.createFolder(space.path(folder)) }
        let embedding = TestTensor(name, .f32, [3, 2], values: [1, 2, 3, 4, 5, 6])
        try writeSafetensors([embedding], to: space.path("base/model.safetensors"))
        try writeText(config.serialized(), space.path("base/config.json"))
        try writeSafetensors(
            [
                TestTensor("base_model.model.lm_head.lora_A.weight", .f32, [1, 2], values: [1, 2]),
                TestTensor("base_model.model.lm_head.lora_B.weight", .f32, [3, 1], values: [1, 0, 2]),
            ], to: space.path("adapter/adapter_model.safetensors"))
        try writeText(
            #"{"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["lm_head"], "ensure_weight_tying": false}"#,
            space.path("adapter/adapter_config.json"))
        let models = ["--base", space.path("base"), "--adapter", space.path("adapter")]
        try space.succeed(["merge"] + models + ["--out", space.path("merged"), "--no-fsync"])
        let merged = try space.readTensors(space.path("merged/model.safetensors"))
        #expect(merged.first { $0.name == name }?.bytes == embedding.bytes)
        let head = TestTensor("lm_head.weight", .f32, [3, 2], values: [3, 6, 3, 4, 9, 14])
        #expect(merged.first { $0.name == "lm_head.weight" }?.bytes == head.bytes)
        let fields = try JSONValue(parsing: try readAll(space.path("merged/config.json")))
        #expect(fields["tie_word_embeddings"] == false && fields["text_config"]?["tie_word_embeddings"] == false)
        try space.succeed(["verify"] + models + ["--merged", space.path("merged")])
        // Tied again.
        try writeText(config.serialized(), space.path("merged/config.json"))
        #expect(try Executable.run(["verify"] + models + ["--merged", space.path("merged")]).status == 1)
    }

    /// Both matrices under their names are as right as one, and the configuration may then say that they are two.
    @Test func aTiedModelMayHoldBothMatrices() throws {
        let space = try Workspace()
        let embedding = TestTensor("model.embed_tokens.weight", .f32, [3, 2], values: [1, 2, 3, 4, 5, 6])
        let query = TestTensor("model.layers.0.self_attn.q_proj.weight", .f32, [2, 2], values: [1, 2, 3, 4])
        func configuration(tied: Bool) -> String {
            let fields: JSONValue = ["architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": .bool(tied)]
            return fields.serialized()
        }
        for folder in ["base", "adapter"] { try FileSystem.createFolder(space.path(folder)) }
        try writeSafetensors([embedding, query], to: space.path("base/model.safetensors"))
        try writeText(configuration(tied: true), space.path("base/config.json"))
        try writeSafetensors(
            [
                TestTensor("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", .f32, [1, 2], values: [1, 2]),
                TestTensor("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", .f32, [2, 1], values: [1, 2]),
            ], to: space.path("adapter/adapter_model.safetensors"))
        try writeText(#"{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]}"#, space.path("adapter/adapter_config.json"))
        let models = ["--base", space.path("base"), "--adapter", space.path("adapter")]
        try space.succeed(["merge"] + models + ["--out", space.path("merged"), "--no-fsync"])
        let merged = TestTensor(query.name, .f32, [2, 2], values: [2, 4, 5, 8])
        func head(_ last: Float) -> TestTensor { TestTensor("lm_head.weight", .f32, [3, 2], values: [1, 2, 3, 4, 5, last]) }
        let cases: [(name: String, tensors: [TestTensor], tied: Bool, status: Int32)] = [
            ("one matrix, tied", [embedding, merged], true, 0),
            ("two, tied", [embedding, merged, head(6)], true, 0),
            ("two, not tied", [embedding, merged, head(6)], false, 0),
            ("one, not tied: its head would be made of random numbers", [embedding, merged], false, 1),
            ("two that differ", [embedding, merged, head(7)], false, 1),
        ]
        for (name, tensors, tied, status) in cases {
            try writeSafetensors(tensors, to: space.path("merged/model.safetensors"))
            try writeText(configuration(tied: tied), space.path("merged/config.json"))
            let result = try Executable.run(["verify"] + models + ["--merged", space.path("merged")])
            #expect(result.status == status, "\(name): \(result.output) \(result.errors)")
        }
    }

    /// Updates that cancel are none of zero.
    @Test func whatCancelsIsNotCalledZero() throws {
        let space = try Workspace()
        for folder in ["base", "adapter"] { try FileSystem.createFolder(space.path(folder)) }
        try writeSafetensors([TestTensor("q_proj.weight", .f32, [2, 2], values: [1, 2, 3, 4])], to: space.path("base/model.safetensors"))
        try writeText(#"{"model_type": "llama"}"#, space.path("base/config.json"))
        try writeSafetensors(
            [
                TestTensor("base_model.model.q_proj.lora_A.weight", .f32, [1, 2], values: [1, 2]),
                TestTensor("base_model.model.q_proj.lora_B.weight", .f32, [2, 1], values: [1, 2]),
            ], to: space.path("adapter/adapter_model.safetensors"))
        try writeText(#"{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]}"#, space.path("adapter/adapter_config.json"))
        let adapter = space.path("adapter")
        func merge(_ adapters: [String], _ out: String) throws -> String {
            let outcome = try space.succeed(
                ["merge", "--base", space.path("base"), "--again", "--no-fsync", "--out", space.path(out)] + adapters.flatMap { ["--adapter", $0] })
            return (outcome.output + outcome.errors).split(whereSeparator: \.isWhitespace).joined(separator: " ")
        }
        let canceled = try merge([adapter, adapter + ":-1"], "canceled")
        #expect(canceled.contains("the update of 1 module cancel out") && !canceled.contains("is zero"), "\(canceled)")
        let zero = try merge([adapter + ":0"], "zero")
        #expect(zero.contains("the update of 1 module is zero") && !zero.contains("cancel out"), "\(zero)")
    }

    /// A fresh adapter has updates of zeros, of which the embedding's is none of the head's.
    @Test func updatesOfZeroSeparateNothing() throws {
        let space = try Workspace()
        let embedding = TestTensor("model.embed_tokens.weight", .f32, [3, 2], values: [1, 2, 3, 4, 5, 6])
        for folder in ["base", "adapter"] { try FileSystem.createFolder(space.path(folder)) }
        try writeSafetensors([embedding], to: space.path("base/model.safetensors"))
        try writeText(
            #"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": true}"#, space.path("base/config.json"))
        try writeSafetensors(
            [
                TestTensor("base_model.model.model.embed_tokens.lora_embedding_A", .f32, [1, 3], values: [0, 0, 0]),
                TestTensor("base_model.model.model.embed_tokens.lora_embedding_B", .f32, [2, 1], values: [1, 2]),
            ], to: space.path("adapter/adapter_model.safetensors"))
        try writeText(
            #"{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["embed_tokens"]}"#, space.path("adapter/adapter_config.json"))
        let models = ["--base", space.path("base"), "--adapter", space.path("adapter")]
        let merge = try space.succeed(["merge"] + models + ["--out", space.path("merged"), "--no-fsync"])
        #expect(merge.output.contains("0 tensors changed") && !merge.output.contains("are two now"), "\(merge.output)")
        #expect(try space.readTensors(space.path("merged/model.safetensors")).map(\.name) == [embedding.name])
        for merged in ["merged", "base"] { try space.succeed(["verify"] + models + ["--merged", space.path(merged)]) }
    }
}
