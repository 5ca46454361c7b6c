package import FileIO
package import NativeCheckpoint
internal import OrderedCollections
package import Weights

/// A tensor of a file of any kind.
package struct InspectedTensor {
    package let name: String
    package let type: ElementType
    /// Dimensions, outermost first.
    package let shape: [Int]
    package let byteCount: Int
    /// The file that holds it, by its last name.
    package let file: String
    /// Where its bytes lie; `nil` where they have to be decoded.
    package let place: (file: MappedFile, range: Range<Int>)?
    /// What a checkpoint calls it, where it has to be decoded.
    package var label: String?

    package var elementCount: Int { shape.reduce(1, &*) }
    package var role: TensorRole { TensorRole(name: name) }
}

/// What the tensors of a group of folded names share.
package struct TensorForm: Hashable {
    package let type: ElementType
    package let shape: [Int]

    package var elementCount: Int { shape.reduce(1, &*) }
}

extension CheckpointFile {
    /// The tensors without the other bytes of packed files, which have no name.
    fileprivate var namedTensors: [CheckpointTensor] { tensors.values.filter { $0.path == nil || !$0.name.isEmpty } }
}

/// The opened files of an inspection.
package enum TensorSource {
    /// Files in which tensors lie as they are.
    case files([ModelShard])
    case checkpoint(CheckpointFile)

    package var tensorCount: Int {
        switch self {
        case .files(let files): files.reduce(0) { $0 + $1.tensorCount }
        case .checkpoint(let file): file.namedTensors.count
        }
    }

    /// The tensors in the order of the files.
    package var tensors: [InspectedTensor] {
        switch self {
        case .files(let files):
            files.flatMap { file in
                let name = FileSystem.lastComponent(file.path)
                return file.stored.map {
                    InspectedTensor(
                        name: $0.name, type: $0.type, shape: $0.shape, byteCount: $0.byteCount, file: name, place: ($0.file, $0.range))
                }
            }
        case .checkpoint(let file):
            file.namedTensors.map {
                InspectedTensor(
                    name: $0.name, type: .plain($0.dtype), shape: $0.shape, byteCount: $0.byteCount,
                    file: $0.path ?? FileSystem.lastComponent(file.path), place: nil, label: $0.label)
            }
        }
    }

    /// The names of all tensors, folded. This looks into the files' own tables and copies nothing.
    package func folded() -> FoldedNames<TensorForm> {
        var names = FoldedNames<TensorForm>()
        switch self {
        case .files(let files):
            for file in files { file.forEachForm { names.insert($0, TensorForm(type: $1, shape: $2)) } }
        case .checkpoint(let file):
            for tensor in file.namedTensors { names.insert(tensor.name, TensorForm(type: .plain(tensor.dtype), shape: tensor.shape)) }
        }
        return names
    }
}
