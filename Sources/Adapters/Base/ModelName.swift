internal import FileIO

/// What a model is called: a name on a hub, a path, or a path in a hub's cache.
struct ModelName: Equatable {
    /// Without the owner and in lower case, so that a local copy has the name of its original.
    private let last: String
    /// The whole name, where the text is a path in a hub's cache (`…/models--OWNER--NAME/snapshots/HASH`).
    let cached: String?

    init(_ text: String) {
        let folder = text.split(separator: "/").last { $0.hasPrefix("models--") }
        cached = folder.map { $0.dropFirst("models--".count).split(separator: "--").joined(separator: "/") }
        last = FileSystem.lastComponent(cached ?? text).lowercased()
    }

    static func == (a: ModelName, b: ModelName) -> Bool { a.last == b.last }
}
