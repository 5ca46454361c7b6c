internal import ArgumentParser
internal import JSON

/// What was written after the program's name, as the argument parser takes it, and what of it names nothing that there is.
struct Arguments {
    let words: [String]

    init(_ words: some Sequence<String>) {
        var joined: [String] = []
        var isOver = false
        for word in words {
            // The parser takes a value that begins with a dash for an option; that of a number is a sign.
            if !isOver, Self.isNegative(word), let last = joined.last, last.hasPrefix("--"), !last.contains("=") {
                joined[joined.count - 1] = "\(last)=\(word)"
            } else {
                joined.append(word)
            }
            isOver = isOver || word == "--"
        }
        self.words = joined
    }

    private static func isNegative(_ word: String) -> Bool { word.hasPrefix("-") && Double(word) != nil }

    private static let commands = RootCommand.configuration.subcommands.compactMap { type in
        type.configuration.commandName.map { (name: $0, type: type) }
    }

    /// The command that is to run.
    private var command: (name: String, type: any ParsableCommand.Type)? { Self.commands.first { $0.name == words.first } }

    /// The parser would say only that the word was not expected.
    func refuseUnknownCommand() throws {
        let names = Self.commands.map(\.name) + ["help"]
        let asked = words.first == "help" ? words.dropFirst().first : words.first
        guard let word = asked, !word.hasPrefix("-"), !names.contains(word) else { return }
        throw ValidationError(
            "there is no command '\(word)'; it must be one of \(names.joined(separator: ", "))\(Words(names).suggestion(for: word))")
    }

    /// The parser would take the last of several values for an option that has one, and say nothing of the others.
    func refuseRepeatedOptions() throws {
        let given = words.prefix { $0 != "--" }.filter { $0.hasPrefix("--") }.map { String($0.prefix { $0 != "=" }) }
        guard Set(given).count < given.count, let command, let arguments = Self.arguments(of: command.type) else { return }
        for argument in arguments where argument["kind"] == "option" && argument["isRepeating"]?.boolValue == false {
            guard let name = argument["preferredName"]?["name"]?.stringValue, given.count(where: { $0 == "--" + name }) > 1 else { continue }
            throw ValidationError("--\(name) is given twice, and \(command.name) takes one; leave out what is not meant")
        }
    }

    /// What is wrong with arguments that the parser refused: where an option is mistyped, it may miss the one that was meant and say only that.
    ///
    /// - Returns: the error and how the command is used; `nil` where every option is one of the command's.
    func unknownOption() -> String? {
        guard let command, let options = Self.options(of: command.type) else { return nil }
        for word in words.dropFirst().prefix(while: { $0 != "--" }) where word.hasPrefix("-") && word != "-" {
            let option = String(word.prefix { $0 != "=" })
            guard !options.contains(option) else { continue }
            let known = Words(options.filter { $0.hasPrefix("--") }.map { String($0.dropFirst(2)) })
            let suggestion = known.suggestion(for: String(option.drop { $0 == "-" }), prefix: "--")
            let usage = RootCommand.usageString(for: command.type).replacing("\n", with: "\n       ")
            return """
                Error: \(command.name) has no option '\(option)'\(suggestion)
                Usage: \(usage)
                  See 'oplora \(command.name) --help' for more information.
                """
        }
        return nil
    }

    /// What a command takes, as its help has it.
    private static func arguments(of command: any ParsableCommand.Type) -> [JSONValue]? {
        try? JSONValue(parsing: command._dumpHelp())["command"]?["arguments"]?.arrayValue
    }

    /// The options of a command with their dashes.
    private static func options(of command: any ParsableCommand.Type) -> [String]? {
        let names = arguments(of: command)?.flatMap { argument in
            (argument["names"]?.arrayValue ?? []).compactMap { name in
                name["name"]?.stringValue.map { (name["kind"] == "long" ? "--" : "-") + $0 }
            }
        }
        // Every command takes this one of the program.
        return names.map { $0 + ["--version"] }
    }
}
