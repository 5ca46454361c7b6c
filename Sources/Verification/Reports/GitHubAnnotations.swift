extension MergeVerdict {
    /// The verdict as workflow commands of GitHub Actions, one for each line: errors for what is wrong, warnings for what cannot be
    /// decided, and a notice for a model that passes.
    ///
    /// - Parameter merged: the path of the merged model.
    public func githubAnnotations(merged: String) -> [String] {
        // GitHub shows ten annotations of a kind; the rest is in the log.
        func command(_ level: String, _ title: String, _ text: String) -> String {
            "::\(level) file=\(Self.property(merged)),title=\(Self.property(title))::\(Self.data(text))"
        }
        func line(_ level: String, _ fault: Fault) -> String {
            command(
                level, "oplora: \(fault.code.rawValue)", "\(fault.module.isEmpty ? "" : fault.module + ": ")\(fault.message). \(fault.code.advice)")
        }
        let lines = faults.map { line("error", $0) } + doubts.map { line("warning", $0) }
        return lines.isEmpty ? [command("notice", "oplora: verified", summary)] : lines
    }

    private static func data(_ text: String) -> String {
        let plain = String(
            String.UnicodeScalarView(text.unicodeScalars.map { $0.value < 0x20 && $0 != "\r" && $0 != "\n" || $0.value == 0x7f ? "\u{FFFD}" : $0 }))
        return plain.replacing("%", with: "%25").replacing("\r", with: "%0D").replacing("\n", with: "%0A")
    }

    private static func property(_ text: String) -> String { data(text).replacing(":", with: "%3A").replacing(",", with: "%2C") }
}
