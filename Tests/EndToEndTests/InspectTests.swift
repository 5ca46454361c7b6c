import FileIO
import Foundation
import JSON
import OrderedCollections
import Tensors
import TestModels
import TestSupport
import Testing

/// What `inspect` prints for scripts, and the numbers that it measures.
struct InspectTests {
    /// What the schema asks for is in the reports of a model, a run, an adapter and a file, with statistics and without.
    @Test func inspectionsHaveWhatTheirSchemaAsksFor() throws {
        let space = try Workspace()
        try space.makeMerged()
        let schema = try ReportSchema("inspect")
        let kinds = [
            (Repository.tinyLlama, "model"), (space.path("run.opck"), "run"), (space.path("adapter"), "adapter"),
            (space.path("merged/model.safetensors"), "tensors"), (try makeGGUF(space), "model"), (try makeGGUF(space, adapter: true), "adapter"),
        ]
        for options in [["--json"], ["--json", "--stats"]] {
            let reports = try space.succeed(["inspect"] + options + kinds.map(\.0)).lines.map { try JSONValue(parsing: Array($0.utf8)) }
            #expect(reports.map { $0["kind"]?.stringValue } == kinds.map(\.1))
            for report in reports {
                #expect(schema.faults(of: report) == [])
                let tensors = try #require(report["tensors"]?.arrayValue)
                #expect(!tensors.isEmpty && tensors.allSatisfy { ($0["stats"] != nil) == options.contains("--stats") })
            }
        }
        // The check itself can fail: each of these lacks something, or has it of another type.
        let report = try JSONValue(parsing: try space.succeed(["inspect", "--json", "--stats", space.path("adapter")]).output)
        for key in ["schema", "kind", "parameters", "bytes", "types", "roles", "tensors"] {
            var fields = try #require(report.objectValue)
            fields[key] = nil
            #expect(schema.faults(of: .object(fields)) == ["\(key) is missing"])
            fields[key] = .bool(true)
            #expect(!schema.faults(of: .object(fields)).isEmpty, "\(key)")
        }
    }

    /// The numbers of a file that is made here, and a filter that keeps some.
    @Test func statisticsAreThoseOfKnownNumbers() throws {
        let space = try Workspace()
        let floats: [Float] = [1, -3, 0, .nan, .infinity, 0.5]
        let integers: [Int16] = [-5, 7, 0]
        try writeSafetensors(
            [
                TestTensor(
                    "a.weight", .f32, [2, 3],
                    bytes: floats.flatMap { value in (0..<4).map { UInt8(truncatingIfNeeded: value.bitPattern >> (8 * $0)) } }),
                TestTensor("b", .i16, [3], bytes: integers.flatMap { [UInt8(truncatingIfNeeded: $0), UInt8(truncatingIfNeeded: $0 >> 8)] }),
                TestTensor("c", .f8E4M3, [2], bytes: [1, 2]),
            ], to: space.path("known.safetensors"))
        var outputs: Set<String> = []
        for threads in ["1", "2", "3"] {
            outputs.insert(try space.succeed(["inspect", "--stats", "--json", "--threads", threads, space.path("known.safetensors")]).output)
        }
        #expect(outputs.count == 1)
        let tensors = try #require(JSONValue(parsing: outputs.first ?? "")["tensors"]?.arrayValue)
        let named = Dictionary(uniqueKeysWithValues: tensors.map { ($0["name"]?.stringValue ?? "", $0["stats"]) })
        #expect(
            named["a.weight"] == [
                "min": -3.0, "max": 1.0, "mean": -0.375, "std": .real(2.421875.squareRoot()), "zeros": 1, "nan": 1, "inf": 1,
                "histogram": [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0],
            ])
        #expect(named["b"]??["min"] == -5 && named["b"]??["max"] == 7 && named["b"]??["zeros"] == 1)
        #expect(named["b"]??["histogram"] == [0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        #expect(named["c"] == .some(.null))
        let text = try space.succeed(["inspect", "--stats", "--filter", "^a\\.", space.path("known.safetensors")]).output
        #expect(text.contains("min -3.00e0  max 1.00e0") && !text.contains("I16 [3]"), "\(text)")
    }

    // MARK: What it says

    @Test func modelsAreSummedUpByRoleAndLayer() throws {
        let space = try Workspace()
        let lines = try space.succeed(["inspect", Repository.tinyLlama]).lines.map { $0.split(separator: " ").joined(separator: " ") }
        for line in [
            "LlamaForCausalLM, llama: 4 layers, hidden 128, intermediate 352, 4 heads with 2 key-value heads",
            "vocabulary 1,024, 512 positions, tied head", "869,504 elements in 38 tensors, 1.74 MB",
            "MLP 540,672 elements 12 tensors 1.08 MB 62.2%", "norm 1,152 elements 9 tensors 2.30 kB 0.1%",
            "model.layers.{0…3}.self_attn.q_proj.weight BF16 [128,128] ×4", "model.norm.weight BF16 [128]", "metadata: format pt",
        ] { #expect(lines.contains(line), "\(line) is not in \(lines)") }
        let report = try JSONValue(parsing: try space.succeed(["inspect", "--json", Repository.tinyLlama]).output)
        let roles = try #require(report["roles"]?.arrayValue)
        #expect(roles.reduce(0) { $0 + ($1["bytes"]?.integerValue ?? 0) } == report["bytes"]?.integerValue)
        #expect(roles.map { $0["role"]?.stringValue } == ["MLP", "attention", "embedding", "norm"])
        #expect(report["model"]?["layers"] == 4 && report["model"]?["architecture"] == "llama")
    }

    @Test func adaptersAreShownWithTheirScales() throws {
        let space = try Workspace()
        try space.makeMerged()
        let adapter = try space.succeed(["inspect", space.path("adapter")])
        let lines = adapter.lines.map { $0.split(separator: " ").joined(separator: " ") }
        #expect(lines.contains("peft adapter: 28 modules, rank 2, alpha 32, scale 16"), "\(adapter.output)")
        #expect(lines.contains("model.layers.{0…3}.self_attn.q_proj rank 2 alpha 32 scale 16 ×4"), "\(adapter.output)")
        // PEFT puts an adapter of another name than `default` into a folder of its own.
        try FileSystem.createFolder(space.path("outer"))
        try FileManager.default.copyItem(atPath: space.path("adapter"), toPath: space.path("outer/other"))
        #expect(try space.succeed(["inspect", space.path("outer")]).output.contains("peft adapter: 28 modules"))
        let weights = try space.succeed(["inspect", "--json", space.path("adapter/adapter_model.safetensors")]).output
        #expect(try JSONValue(parsing: weights)["adapter"]?["modules"]?.arrayValue?.count == 28)
        let run = try JSONValue(parsing: try space.succeed(["inspect", "--json", space.path("run.opck")]).output)["run"]
        #expect(run?["method"] == "op-lora" && run?["step"] == 12 && run?["loss"]?.doubleValue != nil, "\(String(describing: run))")

        // One that cannot be merged here can be looked at all the same.
        let configuration = space.path("adapter/adapter_config.json")
        var fields = try #require(try JSONValue(parsing: try readAll(configuration)).objectValue)
        fields["use_qalora"] = true
        try writeText(JSONValue.object(fields).serialized(), configuration)
        let refused = try space.succeed(["inspect", space.path("adapter")]).output
        #expect(refused.contains("cannot be merged here") && refused.contains("QA-LoRA") && refused.contains("lora_A"), "\(refused)")
    }

    @Test func rolesFollowFromNames() throws {
        let roles: [String: [String]] = [
            "embedding": [
                "model.embed_tokens.weight", "transformer.wte.weight", "bert.embeddings.word_embeddings.weight", "token_embd.weight", "shared.embed",
            ],
            "attention": [
                "model.layers.0.self_attn.q_proj.weight", "h.3.attn.c_attn.weight", "blk.0.attn_output.weight", "layers.0.attention.wo.weight",
                "bert.encoder.layer.0.attention.output.dense.weight", "unet.mid.to_q.weight", "encoder.block.0.layer.0.SelfAttention.k.weight",
            ],
            "MLP": [
                "model.layers.0.mlp.gate_proj.weight", "blk.0.ffn_down.weight", "model.layers.0.block_sparse_moe.experts.3.w1.weight",
                "bert.encoder.layer.0.intermediate.dense.weight", "decoder.layers.0.fc1.weight",
            ],
            "norm": [
                "model.norm.weight", "blk.0.attn_norm.weight", "model.layers.0.self_attn.q_norm.weight", "h.0.ln_1.weight", "output_norm.weight",
                "bert.embeddings.LayerNorm.weight",
            ],
            "head": ["lm_head.weight", "output.weight", "classifier.bias", "score.weight"],
            "adapter": [
                "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "lora_unet_down_blocks_0.lora_up.weight",
                "blk.0.attn_q.weight.lora_a",
                "model.layers.0.mlp.up_proj.hypernetwork.W2",
            ],
            "other": ["alpha", "history.loss", "adamw.first.model.layers.0.mlp.up_proj.lora_A", "conv1.weight"],
        ]
        let space = try Workspace()
        try writeSafetensors(roles.values.joined().map { TestTensor($0, .u8, [1], bytes: [1]) }, to: space.path("roles.safetensors"))
        let report = try JSONValue(parsing: try space.succeed(["inspect", "--json", space.path("roles.safetensors")]).output)
        let tensors = try #require(report["tensors"]?.arrayValue)
        #expect(tensors.count == roles.values.joined().count)
        for (role, names) in roles {
            let found = tensors.filter { $0["role"]?.stringValue == role }.compactMap { $0["name"]?.stringValue }
            #expect(Set(found) == Set(names), "\(role)")
        }
    }

    /// A GGUF file of two tensors, one of them quantised; or an adapter of one module.
    private func makeGGUF(_ space: Workspace, adapter: Bool = false) throws -> String {
        func little(_ number: Int, _ bytes: Int) -> [UInt8] { (0..<bytes).map { UInt8(truncatingIfNeeded: number >> (8 * $0)) } }
        func text(_ text: String) -> [UInt8] { little(text.utf8.count, 8) + Array(text.utf8) }
        func tensor(_ name: String, _ dimensions: [Int], _ type: Int, at offset: Int) -> [UInt8] {
            text(name) + little(dimensions.count, 4) + dimensions.flatMap { little($0, 8) } + little(type, 4) + little(offset, 8)
        }
        var fields = [text("general.architecture") + little(8, 4) + text("llama"), text("llama.block_count") + little(4, 4) + little(1, 4)]
        var tensors = [tensor("token_embd.weight", [32, 4], 8, at: 0), tensor("output_norm.weight", [32], 0, at: 160)]
        if adapter {
            fields += [text("general.type") + little(8, 4) + text("adapter"), text("adapter.lora.alpha") + little(6, 4) + little(0x4180_0000, 4)]
            tensors = [tensor("blk.0.attn_q.weight.lora_a", [8, 4], 0, at: 0), tensor("blk.0.attn_q.weight.lora_b", [4, 8], 0, at: 128)]
        }
        var bytes = Array("GGUF".utf8) + little(3, 4) + little(tensors.count, 8) + little(fields.count, 8)
        bytes += fields.flatMap(\.self) + tensors.flatMap(\.self)
        bytes += [UInt8](repeating: 0, count: (32 - bytes.count % 32) % 32 + (adapter ? 256 : 288))
        let path = space.path(adapter ? "adapter.gguf" : "model.gguf")
        let file = try AtomicFile(path: path, replacing: true)
        try file.write(bytes)
        try file.publish(durable: false)
        return path
    }

    @Test func filesOfGGUFAreShown() throws {
        let space = try Workspace()
        let model = try space.succeed(["inspect", try makeGGUF(space)]).output
        #expect(model.contains("llama: 1 layers") && model.contains("Q8_0 [4,32]") && model.contains("F32 [32]"), "\(model)")
        let report = try JSONValue(parsing: try space.succeed(["inspect", "--json", "--stats", space.path("model.gguf")]).output)
        #expect(report["bytes"] == 264 && report["parameters"] == 160)
        #expect(report["tensors"]?.arrayValue?.map { $0["stats"]?.isNull } == [true, false])
        #expect(report["tensors"]?.arrayValue?.map { $0["role"] } == ["embedding", "norm"])
        let adapter = try JSONValue(parsing: try space.succeed(["inspect", "--json", try makeGGUF(space, adapter: true)]).output)["adapter"]
        #expect(adapter?["dialect"] == "gguf" && adapter?["rank"] == 4)
        #expect(adapter?["modules"] == [["module": "blk.0.attn_q.weight", "rank": 4, "alpha": 16.0, "scale": 4.0]])
        try space.truncate(space.path("model.gguf"), to: 300)
        let outcome = try Executable.run("inspect", space.path("model.gguf"))
        #expect(outcome.status == 65 && outcome.errors.contains("cut short"), "\(outcome.errors)")
    }

    @Test func namesFoldByTheirNumbers() throws {
        let space = try Workspace()
        let names = ["h.0.a.0", "h.0.a.1", "h.1.a.0", "h.1.a.1", "h.01.a.0", "h.3.b", "h.5.b", "h.6.b", "h.7.b", "7", "x.99999999999999999999.y"]
        try writeSafetensors(names.map { TestTensor($0, .u8, [1], bytes: [1]) }, to: space.path("names.safetensors"))
        let lines = try space.succeed(["inspect", space.path("names.safetensors")]).lines.map { $0.split(separator: " ").joined(separator: " ") }
        #expect(
            Set(lines.suffix(5)) == [
                "h.{0,1}.a.{0,1} U8 [1] ×4", "h.01.a.0 U8 [1]", "h.{3,5…7}.b U8 [1] ×4", "7 U8 [1]", "x.99999999999999999999.y U8 [1]",
            ], "\(lines)")
    }

    // MARK: Names from strangers

    /// Names that give orders to a terminal, or are markup, do neither.
    @Test func hostileNamesGiveNoOrders() throws {
        let space = try Workspace()
        let path = space.path("hostile.safetensors")
        let name = "\u{1B}[2J<script>alert(1)</script>\u{202E}\"'\n"
        try writeSafetensors([TestTensor(name, .u8, [1], bytes: [1])], to: path, metadata: [name: name])
        for option in ["--tree", "--tensors", "--stats", "--metadata"] {
            let output = try space.succeed(["inspect", option, path]).output
            #expect(!output.contains("\u{1B}") && !output.contains("\u{202E}") && output.contains("\\u{1B}[2J<script>"), "\(output)")
        }
        let report = try JSONValue(parsing: try space.succeed(["inspect", "--json", path]).output)
        #expect(report["tensors"]?.arrayValue?.first?["name"]?.stringValue == name)
        try space.succeed(["inspect", "--stats", "--html", space.path("page.html"), path])
        let page = String(decoding: try readAll(space.path("page.html")), as: UTF8.self)
        #expect(!page.contains("<script") && !page.contains("\u{1B}") && !page.contains("\u{202E}") && page.contains("&lt;script&gt;"))
    }

    @Test func pagesHoldWhatIsPrinted() throws {
        let space = try Workspace()
        let page = space.path("page.html")
        try space.succeed(["inspect", "--stats", "--html", page, Repository.tinyLlama])
        let text = String(decoding: try readAll(page), as: UTF8.self)
        for word in [
            "tiny-llama", "<span>layers </span>3", "62.2%", "model.layers.{0…3}.mlp.up_proj.weight", "<svg", "prefers-color-scheme:dark", "869,504",
        ] {
            #expect(text.contains(word), "\(word)")
        }
        for word in ["http://", "https://", "url(", "<script", "src="] { #expect(!text.contains(word), "\(word)") }
        #expect(text.components(separatedBy: "<svg").count == 38 + 1)
        // A page that is there stays unless it may be replaced; so does an input always.
        #expect(try Executable.run("inspect", "--html", page, Repository.tinyLlama).status == 73)
        try space.succeed(["inspect", "--html", page, "--force", Repository.tinyLlama])
        #expect(try Executable.run("inspect", "--html", space.path("two.html"), Repository.tinyLlama, Repository.tinyLlama).status == 64)
        let copy = space.path("copy.safetensors")
        try writeSafetensors([TestTensor("a", .u8, [1], bytes: [1])], to: copy)
        #expect(try Executable.run("inspect", "--html", copy, "--force", copy).status == 73)
        #expect(try space.succeed(["inspect", copy]).output.contains("1 tensor"))
    }
}

extension InspectTests {
    /// The tensors of an adapter, and its `adapter_config.json` where it has one; and what its method is called.
    struct Method: CustomTestStringConvertible, Sendable {
        let testDescription: String
        let tensors: [String]
        let configuration: String?

        init(_ name: String, _ tensors: String..., configuration: String? = nil) {
            (testDescription, self.tensors, self.configuration) = (name, tensors, configuration)
        }
    }

    private static let peft = "base_model.model.layers.0.q_proj."

    static let methods: [Method] = [
        Method("LoRA", peft + "lora_A.weight", peft + "lora_B.weight", configuration: #"{"peft_type": "LORA", "r": 1, "lora_alpha": 1}"#),
        Method(
            "rsLoRA", peft + "lora_A.weight", peft + "lora_B.weight",
            configuration: #"{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "use_rslora": true}"#),
        Method(
            "DoRA", peft + "lora_A.weight", peft + "lora_B.weight", peft + "lora_magnitude_vector",
            configuration: #"{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "use_dora": true}"#),
        Method(
            "LoHa", peft + "hada_w1_a", peft + "hada_w1_b", peft + "hada_w2_a", peft + "hada_w2_b",
            configuration: #"{"peft_type": "LOHA", "r": 1, "alpha": 1}"#),
        Method("LoKr", peft + "lokr_w1", peft + "lokr_w2_a", peft + "lokr_w2_b", configuration: #"{"peft_type": "LOKR", "r": 1, "alpha": 1}"#),
        Method("OFT", peft + "oft_R.weight", configuration: #"{"peft_type": "OFT", "r": 1}"#),
        Method("IA³", peft + "ia3_l", configuration: #"{"peft_type": "IA3"}"#),
        Method("VB-LoRA", peft + "vblora_logits_A", configuration: #"{"peft_type": "VBLORA"}"#),
        Method("prompt tuning", "prompt_embeddings", configuration: #"{"peft_type": "PROMPT_TUNING"}"#),
        Method("SOMETHING_NEW", "x.weight", configuration: #"{"peft_type": "SOMETHING_NEW"}"#),
        Method("LoRA", peft + "lora_A.weight", peft + "lora_B.weight"),
        Method("LoRA", "lora_unet_a.lora_down.weight", "lora_unet_a.lora_up.weight", "lora_unet_a.alpha"),
        Method("DoRA", "lora_unet_a.lora_down.weight", "lora_unet_a.lora_up.weight", "lora_unet_a.dora_scale"),
        Method("LoHa and full differences", "lora_unet_a.hada_w1_a", "lora_unet_a.hada_w1_b", "lora_unet_a.alpha", "lora_unet_b.diff"),
        Method("LoKr", "lycoris_a.lokr_w1", "lycoris_a.lokr_w2", "lycoris_a.alpha"),
        Method("full differences", "diffusion_model.blocks.0.q.diff", "diffusion_model.blocks.0.q.diff_b"),
        Method("IA³", "lora_unet_a.weight", "lora_unet_a.on_input"),
        Method("GLoRA", "lycoris_a.a1.weight", "lycoris_a.a2.weight", "lycoris_a.b1.weight", "lycoris_a.b2.weight", "lycoris_a.alpha"),
        Method("LoRA", "unet.a.processor.to_q_lora.down.weight", "unet.a.processor.to_q_lora.up.weight"),
        Method("VeRA", peft + "vera_lambda_b", peft + "vera_lambda_d"),
    ]

    @Test func whyAMethodThatIsReadCannotBeReadIsSaid() throws {
        let space = try Workspace()
        let tensors = ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"].map { TestTensor(Self.peft + $0, .f32, [1, 1], values: [1]) }
        try writeSafetensors(tensors, to: space.path("adapter_model.safetensors"))
        let text = try space.succeed(["inspect", space.path("adapter_model.safetensors")]).output
        #expect(
            text.contains("method: LoHa") && text.contains("cannot be merged here") && !text.contains("the method is not one that is read"), "\(text)"
        )
    }

    /// What an adapter does is said whether it can be merged or not.
    @Test(arguments: methods) func theMethodOfAnAdapterIsSaid(_ method: Method) throws {
        let space = try Workspace()
        let name = method.configuration == nil ? "mine.safetensors" : "adapter_model.safetensors"
        try writeSafetensors(method.tensors.map { TestTensor($0, .f32, [1, 1], values: [1]) }, to: space.path(name))
        if let configuration = method.configuration { try writeText(configuration, space.path("adapter_config.json")) }
        let schema = try ReportSchema("inspect")
        for path in [space.folder.path, space.path(name)] {
            let report = try JSONValue(parsing: try space.succeed(["inspect", "--json", path]).output)
            #expect(report["kind"] == "adapter" && report["method"]?.stringValue == method.testDescription, "\(report.serialized())")
            #expect(schema.faults(of: report) == [])
            #expect(try space.succeed(["inspect", path]).lines.contains("  method: \(method.testDescription)"))
        }
    }

    @Test func mergesAndQuantizedModelsAreSaidToBe() throws {
        let space = try Workspace()
        try space.makeMerged()
        let merged = try space.succeed(["inspect", space.path("merged")])
        #expect(merged.output.contains("a merge, as its oplora-merge.json says: tiny-llama + adapter (peft)"), "\(merged.output)")
        let report = try JSONValue(parsing: try space.succeed(["inspect", "--json", space.path("merged")]).output)
        #expect(report["merge"] == ["base": "tiny-llama", "adapters": [["name": "adapter", "dialect": "peft", "weight": 1.0]]])
        #expect(try ReportSchema("inspect").faults(of: report) == [])
        let model = try space.makeModel(configuration: ["quantization_config": ["quant_method": "gptq", "bits": 4]])
        #expect(try space.succeed(["inspect", model]).output.contains("quantized (gptq, 4 bits), as its config.json says"))
    }
}
