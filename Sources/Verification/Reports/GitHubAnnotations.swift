internal import VisibleText

extension MergeVerdict {
    /// The verdict as workflow commands of GitHub Actions, one for each line: errors for what is wrong, warnings for what cannot be
    /// decided, and a notice for a model that passes.
    ///
    /// - Parameters:
    ///   - merged: the path of the merged model.
    ///   - advice: what to do about a kind of fault.
    public func githubAnnotations(merged: String, advice: (Fault.Code) -> String = \.advice) -> [String] {
        // GitHub shows ten annotations of a kind; the rest is in the log.
        func command(_ level: String, _ title: String, _ text: String) -> String {
            "::\(level) file=\(Self.property(merged)),title=\(Self.property(title))::\(Self.data(text))"
        }
        func line(_ level: String, _ fault: Fault) -> String {
            command(
                level, "oplora: \(fault.code.rawValue)", "\(fault.module.isEmpty ? "" : fault.module + ": ")\(fault.message). \(advice(fault.code))")
        }
        let lines = faults.map { line("error", $0) } + doubts.map { line("warning", $0) }
        return lines.isEmpty ? [command("notice", "oplora: verified", summary)] : lines
    }

    /// Nothing in the text is invisible then, a line break is spelled out, and a percent sign begins no other character.
    private static func data(_ text: String) -> String { text.visible.replacing("%", with: "%25") }

    private static func property(_ text: String) -> String { data(text).replacing(":", with: "%3A").replacing(",", with: "%2C") }
}
