internal import VisibleText

extension MergeVerdict {
    /// The verdict as a JUnit file: one case for each module, and one for each thing beside the modules that is wrong. What cannot be
    /// decided is skipped.
    ///
    /// - Parameters:
    ///   - merged: what the merged model is called.
    ///   - advice: what to do about a kind of fault.
    public func junit(merged: String, advice: (Fault.Code) -> String = \.advice) -> String {
        let cases = ReportedCase.all(self)
        let failures = cases.count { !$0.faults.isEmpty }
        let skipped = cases.count { $0.faults.isEmpty && !$0.doubts.isEmpty }
        let counts = "tests=\"\(cases.count)\" failures=\"\(failures)\" errors=\"0\" skipped=\"\(skipped)\""
        var lines = [
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>", "<testsuites name=\"oplora verify\" \(counts)>",
            "  <testsuite name=\"\(Self.escaped(merged))\" \(counts)>",
        ]
        for item in cases {
            let head = "    <testcase classname=\"oplora.verify\" name=\"\(Self.escaped(item.name))\""
            guard !item.faults.isEmpty || !item.doubts.isEmpty else {
                lines.append(head + "/>")
                continue
            }
            lines.append(head + ">")
            for fault in item.faults {
                lines.append(
                    "      <failure type=\"\(fault.code.rawValue)\" message=\"\(Self.escaped(fault.code.title))\">\(Self.escaped(fault.message)). \(Self.escaped(advice(fault.code)))</failure>"
                )
            }
            if item.faults.isEmpty { lines.append("      <skipped message=\"\(Self.escaped(item.doubts[0].message))\"/>") }
            lines.append("    </testcase>")
        }
        return (lines + ["  </testsuite>", "</testsuites>"]).joined(separator: "\n") + "\n"
    }

    /// Text of XML 1.0, in which invisible characters, which XML may not hold or which turn the text around, are spelled out.
    private static func escaped(_ text: String) -> String {
        var result = ""
        for scalar in text.visible.unicodeScalars {
            switch scalar {
            case "&": result += "&amp;"
            case "<": result += "&lt;"
            case ">": result += "&gt;"
            case "\"": result += "&quot;"
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result
    }
}
