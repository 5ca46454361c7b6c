internal import Adapters
internal import ArgumentParser
internal import Kernels
internal import Safetensors
internal import Tensors
internal import Training
internal import Transformer

struct LogitsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "logits",
        abstract: "Run a model forward and write its logits to a safetensors file.",
        discussion: """
            Example:
              oplora logits --base SmolLM2 --data passage.txt --seq-len 256 --out logits.safetensors

            Takes the first --seq-len tokens of the data (text, or a .safetensors file with input_ids). Writes input_ids [tokens] and \
            logits [tokens, vocabulary] in F32, for comparison with other programs.
            """)

    @Option(help: ArgumentHelp("Folder of the model.", valueName: "dir")) var base: String
    @Option(help: ArgumentHelp("An adapter to run on the model.", valueName: "adapter")) var adapter: AdapterArgument?
    @Option(help: ArgumentHelp("Text or token ids.", valueName: "file")) var data: String
    @Option(name: .customLong("seq-len"), help: "Tokens to run.") var sequenceLength = 256
    @Option(help: ArgumentHelp("Where the logits go.", valueName: "file")) var out: String
    @Flag(help: "Replace an existing output.") var force = false
    @OptionGroup var threads: ThreadOptions

    func validate() throws {
        if !(1...1_000_000).contains(sequenceLength) { throw ValidationError("--seq-len must be from 1 to 1000000") }
    }

    func run() throws {
        try refuseUnwritableFile(out, replacing: force, inputs: [base, data])
        let compute = try threads.makeCompute()
        let configuration = try TransformerConfiguration(folder: base)
        let tokens = Array(try TokenData(path: data, modelFolder: base, vocabularySize: configuration.vocabularySize).tokens.prefix(sequenceLength))
        let weights = try TransformerWeights(configuration: configuration, files: try WeightFiles(path: base), compute: compute)
        let adapter = try adapter.map { try $0.read() }
        let model = try Transformer(
            weights: weights, compute: compute, batch: 1, sequence: tokens.count, maximumRank: adapter?.adapter.modules.map(\.rank).max() ?? 0,
            training: false)
        let logits = model.logits(
            tokens: tokens, updates: try adapter.map { try $0.adapter.updates(configuration: configuration, weight: $0.weight) } ?? .none)
        let writer = try SafetensorsWriter(
            path: out,
            entries: [
                .init(name: "input_ids", dtype: .i32, shape: [tokens.count]),
                .init(name: "logits", dtype: .f32, shape: [tokens.count, configuration.vocabularySize]),
            ], metadata: [:], replacing: force)
        for entry in writer.order {
            // Sound: any bits are bytes.
            if entry.name == "input_ids" { try writer.write(unsafe tokens.span.bytes) } else { try logits.withBytes { try writer.write($0) } }
        }
        try writer.publish()
    }
}
