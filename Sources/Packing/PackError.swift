/// Why something could not be packed, unpacked or salvaged, where neither a file's format nor the file system is at fault.
public enum PackError: Error, Sendable, Equatable {
    /// A link in the input leads to a folder.
    case linkToFolder(path: String)
    /// A link in the input leads to a file that is not the input's.
    case linkOutside(path: String)
    /// The input is an .opck file that packs no files, so there is nothing to unpack.
    case notAPack(path: String, kind: String)
    /// The base has nothing that the input has.
    case baseWithoutTensors(path: String)
    /// A pack of files cannot be packed against a base.
    case alreadyPacked(path: String)
    /// Nothing of the file could be saved.
    case nothingToSalvage(path: String)
    /// The user asked to stop.
    case interrupted(path: String)
}

extension PackError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .linkToFolder(let path):
            "\(path): this is a link to a folder, which a pack does not follow; put a copy of the folder in its place or pack it by itself"
        case .linkOutside(let path):
            "\(path): this link leads out of the folder that is packed, and a pack does not follow it; put a copy of the file in its place"
        case .notAPack(let path, let kind):
            "\(path): this is a checkpoint of kind \"\(kind)\" that stands for itself and packs no files; inspect shows what it holds"
        case .baseWithoutTensors(let path):
            "\(path): nothing of the input has a tensor of the same name, type and shape in this base"
        case .alreadyPacked(let path):
            "\(path): this is a pack already; unpack it and pack the files against the base"
        case .nothingToSalvage(let path):
            "\(path): no chunk in it is whole; there is nothing to salvage"
        case .interrupted(let path):
            "\(path): interrupted; nothing was published"
        }
    }
}
