internal import Adapters
internal import ArgumentParser
internal import FileIO
internal import Kernels
internal import LanguageModel
internal import Safetensors
internal import Tensors
internal import Training
internal import Verification

struct LogitsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "logits",
        abstract: "Run a model forward and write its logits to a safetensors file.",
        discussion: """
            Examples:
              oplora logits --base SmolLM2 --data passage.txt --out logits.safetensors
              oplora logits --base SmolLM2 --adapter a --data p.txt --out l.safetensors

            Takes the first --seq-len tokens of the data (text, or a .safetensors file with input_ids). Writes input_ids [tokens] and \
            logits [tokens, vocabulary] in F32, for comparison with other programs. Adapters run unmerged: low-rank updates beside the \
            weights, everything else (DoRA, biases, embeddings, whole modules) as F32 weights. Text is encoded with the tokenizer that a \
            merge would write: the adapter's own, if it brings one.
            """)

    @Option(help: ArgumentHelp("Folder of the model.", valueName: "dir"), completion: .directory) var base: String
    @Option(help: ArgumentHelp("An adapter to run on the model, with a weight if not 1; may be repeated.", valueName: "adapter[:weight]"))
    var adapter: [AdapterArgument] = []
    @Flag(help: "Encode text with the base's tokenizer, whatever an adapter brings.") var baseTokenizer = false
    @Option(help: ArgumentHelp("Text or token ids.", valueName: "file"), completion: .file()) var data: String
    @Option(name: .customLong("seq-len"), help: "Tokens to run.") var sequenceLength = 256
    @Option(help: ArgumentHelp("Where the logits go.", valueName: "file"), completion: .file()) var out: String
    @Flag(help: "Replace an existing output.") var force = false
    @OptionGroup var reading: AdapterReadingOptions
    @OptionGroup var threads: ThreadOptions

    func validate() throws {
        if !(1...1_000_000).contains(sequenceLength) { throw ValidationError("--seq-len must be from 1 to 1000000") }
    }

    func run() throws {
        try refuseUnwritableFile(
            out, as: .file(ending: ".safetensors"), replacing: force, inputs: try [.transformer(base)] + reading.inputs(adapter) + [.file(data)])
        let compute = try threads.makeCompute()
        let adapters = try reading.read(adapter)
        let adapted = try AdaptedWeights(base: base, adapters: adapters, compute: compute)
        let configuration = adapted.weights.configuration
        let tokenizer = baseTokenizer ? base : try TokenizerFiles(adapters: adapters, base: base).encodingFolder ?? base
        let tokens = Array(
            try TokenData(path: data, modelFolder: tokenizer, vocabularySize: configuration.vocabularySize).tokens.prefix(sequenceLength))
        let model = try Transformer(
            weights: adapted.weights, compute: compute, batch: 1, sequence: tokens.count, maximumRank: adapted.maximumRank, training: false)
        let logits = model.logits(tokens: tokens, updates: adapted.updates)
        guard logits.withBytes({ MergeKernel.scan($0, of: .f32).firstNotFinite == nil }) else {
            throw UsageError(
                "\(base): the logits are infinite or NaN; the numbers on the way to them are beyond the range of F32"
                    + (adapters.isEmpty ? "" : ", perhaps by an adapter whose update is too large"), status: .malformedInput)
        }
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

extension LogitsCommand: TakesModelsAndAdapters {
    var models: [NamedPath] { [NamedPath("--base", base)] }
    var adapters: [NamedPath] { adapter.map { NamedPath("--adapter", $0.path) } }
}
