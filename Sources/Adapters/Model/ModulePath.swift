/// The place of a module in a model: `model.layers.0.self_attn.q_proj`.
public struct ModulePath: Sendable, Hashable {
    /// The components joined by dots.
    public let text: String

    /// - Returns: `nil` when there is no component or an empty one.
    public init?(_ text: some StringProtocol) {
        guard !text.isEmpty, !text.hasPrefix("."), !text.hasSuffix("."), !text.contains("..") else { return nil }
        self.text = String(text)
    }

    public var components: [Substring] { text.split(separator: ".") }

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
