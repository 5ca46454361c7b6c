internal import Adapters
internal import FileIO
internal import Kernels
internal import Tokenizer
internal import Training
internal import Verification

/// Texts for both models to go on with, and what is made ready to run them.
struct PromptRun {
    private let verifier: FunctionVerifier
    private let prompts: [[Int32]]

    /// The largest file of prompts, in bytes.
    private static let maximumBytes = 16_000_000

    /// - Parameters:
    ///   - path: texts in UTF-8, one a line, or a safetensors file with `input_ids`.
    ///   - base, merged: folders of a Llama-family model.
    init(path: String, base: String, merged: String, adapters: [WeightedAdapter], compute: Compute) throws {
        for model in [base, merged] where !FileSystem.isFolder(model) && FileSystem.exists(model) {
            throw UsageError("--prompts runs both models, which needs their folders with config.json and not the file \(model) alone")
        }
        let verifier = try FunctionVerifier(base: base, adapters: adapters, compute: compute)
        self.verifier = verifier
        let folder = try TokenizerFiles(adapters: adapters, base: base).encodingFolder ?? base
        if path.hasSuffix(".safetensors") {
            prompts = [try TokenData(path: path, modelFolder: folder, vocabularySize: verifier.vocabularySize).tokens]
        } else {
            let text = try FileSystem.contents(of: path, limit: Self.maximumBytes)
            let tokenizer = try Tokenizer(contentsOf: FileSystem.join(folder, "tokenizer.json"))
            prompts = try text.split(whereSeparator: { $0 == UInt8(ascii: "\n") || $0 == UInt8(ascii: "\r") }).compactMap { line in
                guard line.contains(where: { $0 != UInt8(ascii: " ") && $0 != UInt8(ascii: "\t") }) else { return nil }
                return try tokenizer.encode(utf8: Array(line).span, from: path)
            }
        }
        guard !prompts.isEmpty else { throw UsageError("\(path): there is no prompt in it; give one a line", status: .malformedInput) }
        for (number, tokens) in prompts.enumerated() {
            if tokens.count > verifier.maximumTokens {
                throw UsageError(
                    "\(path), prompt \(number + 1): it has \(tokens.count) tokens and the model handles \(verifier.maximumTokens); shorten it",
                    status: .malformedInput)
            }
            if let token = tokens.first(where: { !(0..<verifier.vocabularySize).contains(Int($0)) }) {
                throw UsageError(
                    "\(path), prompt \(number + 1): token \(token) is beyond the model's vocabulary of \(verifier.vocabularySize)",
                    status: .malformedInput)
            }
        }
    }

    func compare(merged: String) throws -> FunctionComparison {
        try verifier.compare(merged: merged, prompts: prompts)
    }
}
