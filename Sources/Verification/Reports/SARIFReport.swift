public import JSON
internal import VisibleText

extension MergeVerdict {
    /// The verdict in the Static Analysis Results Interchange Format, version 2.1.0: a rule for each kind of fault, whose id is its code.
    ///
    /// - Parameters:
    ///   - merged: the path of the merged model.
    ///   - version: of the program.
    ///   - advice: what to do about a kind of fault.
    public func sarif(merged: String, version: String, advice: (Fault.Code) -> String = \.advice) -> JSONValue {
        let codes = Fault.Code.allCases
        func message(_ text: String) -> JSONValue { ["text": .string(Self.plain(text))] }
        let rules = codes.map { code -> JSONValue in
            [
                "id": .string(code.rawValue), "name": .string(code.rawValue), "shortDescription": message(code.title),
                "help": message(advice(code)),
                "defaultConfiguration": ["level": .string([.roundedAway, .unknownName, .quantizedBase].contains(code) ? "warning" : "error")],
            ]
        }
        func result(_ fault: Fault, level: String) -> JSONValue {
            let logical: [JSONValue] =
                fault.module.isEmpty ? [] : [["fullyQualifiedName": .string(fault.module), "kind": "module"]]
            return [
                "ruleId": .string(fault.code.rawValue), "ruleIndex": .integer(codes.firstIndex(of: fault.code) ?? 0), "level": .string(level),
                "message": message((fault.module.isEmpty ? "" : fault.module + ": ") + fault.message),
                "locations": [
                    [
                        "physicalLocation": ["artifactLocation": ["uri": .string(Self.uri(merged))]],
                        "logicalLocations": .array(logical),
                    ]
                ],
                // The same fault of the same module is the same from run to run, whatever its numbers.
                "partialFingerprints": ["faultAndModule/v1": .string("\(fault.code.rawValue):\(fault.module)")],
            ]
        }
        return [
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0",
            "runs": [
                [
                    "tool": ["driver": ["name": "oplora", "version": .string(version), "rules": .array(rules)]],
                    "results": .array(faults.map { result($0, level: "error") } + doubts.map { result($0, level: "warning") }),
                ]
            ],
        ]
    }

    /// Text of a message: in it braces stand for arguments, and brackets before a parenthesis for a link.
    private static func plain(_ text: String) -> String {
        text.visible.replacing("{", with: "{{").replacing("}", with: "}}").replacing("](", with: "] (")
    }

    /// A path as a reference of a URI: what has a meaning there is written as bytes in percent.
    private static func uri(_ path: String) -> String {
        path.utf8.map { byte in
            let scalar = Unicode.Scalar(byte)
            let isPlain =
                scalar.isASCII && (scalar.properties.isAlphabetic || scalar.properties.numericType != nil || "-._~/".unicodeScalars.contains(scalar))
            return isPlain ? String(scalar) : "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
        }.joined()
    }
}
