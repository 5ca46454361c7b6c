import Adapters
import FileIO
import TestModels
import TestSupport
import Testing

/// Every single wrong bit and every cut of an adapter_config.json, counted by what comes of it.
struct BitFlipTests {
    /// What decides a merge.
    private struct Arithmetic: Equatable {
        var scales: [String: Double]
        /// What the file says and the merge does not ask: targets, base model, remarks on ranks.
        var rest: [String]

        init(_ adapter: Adapter) {
            scales = Dictionary(uniqueKeysWithValues: adapter.modules.map { ($0.path.text, $0.scale) })
            rest = adapter.targets + [adapter.baseModel ?? ""] + adapter.remarks
        }
    }

    private static let configuration = """
        {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": false, "bias": "none", "use_dora": false,
         "rank_pattern": {"up_proj": 4}, "alpha_pattern": {"model.layers.0.mlp.up_proj": 16}, "lora_dropout": 0.1,
         "target_modules": ["q_proj", "up_proj"], "init_lora_weights": true, "modules_to_save": null}
        """

    /// Where the numbers and names stand that decide the scale, and that nothing else in the folder repeats.
    private static let deciding = [#""lora_alpha": 8"#, #""model.layers.0.mlp.up_proj": 16"#]

    @Test func noFlippedBitOfAnAdapterConfigGoesUnseen() throws {
        let folder = try TemporaryFolder()
        let path = folder.path("adapter")
        _ = try TestModel.writeAdapter(to: path, rank: 4, seed: 1)
        let file = FileSystem.join(path, "adapter_config.json")
        try writeText(Self.configuration, file)
        let whole = Array(Self.configuration.utf8)
        let original = Arithmetic(try Adapter.read(path: path))
        let deciding = Self.deciding.flatMap { word -> Range<Int> in
            let start = whole.indices.first { whole[$0...].starts(with: word.utf8) }!
            return start..<start + word.utf8.count
        }
        var (refused, same, rest, scale) = (0, 0, 0, 0)
        for bit in 0..<8 * whole.count {
            var bytes = whole
            bytes[bit / 8] ^= 1 << (bit % 8)
            try write(bytes, file)
            guard let adapter = try? Adapter.read(path: path) else {
                refused += 1
                continue
            }
            let reading = Arithmetic(adapter)
            if reading == original {
                same += 1
            } else if reading.scales == original.scales {
                rest += 1
            } else {
                scale += 1
                #expect(deciding.contains(bit / 8), "bit \(bit % 8) of byte \(bit / 8) gives \(reading.scales)")
            }
        }
        print(
            "adapter_config.json, \(8 * whole.count) bits: refused \(refused), harmless \(same), other targets or remarks \(rest), another scale \(scale)"
        )
        #expect(refused + same + rest + scale == 8 * whole.count)
        #expect((refused, same, rest, scale) == (1866, 235, 140, 183))
        for count in whole.indices {
            try write(Array(whole[..<count]), file)
            #expect(throws: (any Error).self, "the first \(count) bytes") { try Adapter.read(path: path) }
        }
    }
}
