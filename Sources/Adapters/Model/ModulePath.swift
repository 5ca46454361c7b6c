/// The place of a module in a model: `model.layers.0.self_attn.q_proj`.
public struct ModulePath: Sendable, Hashable {
    /// The components joined by dots.
    public let text: String

    /// - Returns: `nil` when there is no component or an empty one.
    public init?(_ text: some StringProtocol) {
        let dot = UInt8(ascii: ".")
        var last = dot
        for byte in text.utf8 {
            guard byte != dot || last != dot else { return nil }
            last = byte
        }
        guard last != dot else { return nil }
        self.text = String(text)
    }

    public var components: [Substring] { text.split(separator: ".") }

    /// Whether one of the components is `name`.
    func hasComponent(_ name: String) -> Bool {
        let dot = UInt8(ascii: ".")
        var rest = text.utf8[...]
        while true {
            if rest.starts(with: name.utf8), [nil, dot].contains(rest.dropFirst(name.utf8.count).first) { return true }
            guard let end = rest.firstIndex(of: dot) else { return false }
            rest = rest[rest.index(after: end)...]
        }
    }

    /// The last component: `q_proj`.
    public var lastComponent: String {
        guard let dot = text.lastIndex(of: ".") else { return text }
        return String(text[text.index(after: dot)...])
    }

    /// The path of a part of the module.
    ///
    /// - Precondition: the name is not empty.
    func appending(_ name: String) -> ModulePath {
        precondition(!name.isEmpty)
        return ModulePath(verbatim: "\(text).\(name)")
    }

    /// The path of the module in a model of which this one is a part.
    ///
    /// - Precondition: the name is not empty.
    func prefixed(by name: String) -> ModulePath {
        precondition(!name.isEmpty)
        return ModulePath(verbatim: "\(name).\(text)")
    }

    private init(verbatim text: String) {
        self.text = text
    }

    /// The name of the module's weight in a model's files.
    public var weightName: String { text + ".weight" }
}

extension ModulePath: Comparable {
    /// By the bytes of the names.
    public static func < (a: ModulePath, b: ModulePath) -> Bool {
        a.text.utf8.lexicographicallyPrecedes(b.text.utf8)
    }
}

extension ModulePath: CustomStringConvertible {
    public var description: String { text }
}
