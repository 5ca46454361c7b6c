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
}
