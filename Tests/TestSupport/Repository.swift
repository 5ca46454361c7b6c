/// The places in the repository that tests read.
public enum Repository {
    public static let root = #filePath.split(separator: "/").dropLast(3).reduce("") { $0 + "/" + $1 }

    /// The small model, a folder in the Hugging Face layout.
    public static let tinyLlama = fixture("tiny-llama")

    /// A file or folder by its path inside the repository.
    public static func path(_ name: String) -> String { root + "/" + name }

    public static func fixture(_ name: String) -> String { root + "/fixtures/" + name }

    /// A dump from PyTorch.
    public static func golden(_ name: String) -> String { fixture("golden/" + name) }
}
