internal import ArgumentParser
internal import JSON
internal import Tokenizer

struct TokenizeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "tokenize",
        abstract: "Encode JSON strings, one a line on standard input, as lines of token ids.",
        discussion: """
            Example:
              echo '"In the beginning"' | oplora tokenize --tokenizer tokenizer.json
            """)

    @Option(help: ArgumentHelp("The tokenizer.json of a model.", valueName: "file"), completion: .file()) var tokenizer: String
    @Flag(help: "One JSON string a line; the only mode.") var lines = false

    func run() throws {
        let tokenizer = try Tokenizer(contentsOf: tokenizer)
        while let line = readLine() {
            guard let text = try JSONValue(parsing: line).stringValue else {
                throw UsageError("a line of standard input is not a JSON string", status: .malformedInput)
            }
            Terminal.line(tokenizer.encode(text).map(String.init).joined(separator: " "))
        }
    }
}
