internal import FileIO
internal import GGUF
internal import NativeCheckpoint
internal import OrderedCollections
internal import Safetensors
internal import Tensors

/// A tensor of a file of any kind.
struct InspectedTensor {
    let name: String
    let type: ElementType
    /// Dimensions, outermost first.
    let shape: [Int]
    let byteCount: Int
    /// The file that holds it, by its last name.
    let file: String
    /// Where its bytes lie; `nil` where they have to be decoded.
    let place: (file: MappedFile, range: Range<Int>)?
    /// What a checkpoint calls it, where it has to be decoded.
    var label: String?

    var elementCount: Int { shape.reduce(1, &*) }
    var role: TensorRole { TensorRole(name: name) }
}

/// What the tensors of a group of folded names share.
struct TensorForm: Hashable {
    let type: ElementType
    let shape: [Int]

    var elementCount: Int { shape.reduce(1, &*) }
}

extension CheckpointFile {
    /// The tensors without the other bytes of packed files, which have no name.
    fileprivate var namedTensors: [CheckpointTensor] { tensors.values.filter { $0.path == nil || !$0.name.isEmpty } }
}

/// The opened files of an inspection.
enum TensorSource {
    case safetensors([SafetensorsFile])
    case checkpoint(CheckpointFile)
    case gguf(GGUFFile)

    var tensorCount: Int {
        switch self {
        case .safetensors(let files): files.reduce(0) { $0 + $1.tensors.count }
        case .checkpoint(let file): file.namedTensors.count
        case .gguf(let file): file.tensors.count
        }
    }

    /// The tensors in the order of the files.
    var tensors: [InspectedTensor] {
        switch self {
        case .safetensors(let files):
            files.flatMap { file in
                let name = FileSystem.lastComponent(file.path)
                return file.tensors.values.elements.map {
                    InspectedTensor(
                        name: $0.name, type: .plain($0.dtype), shape: $0.shape, byteCount: $0.byteCount, file: name, place: (file.file, $0.byteRange))
                }
            }
        case .checkpoint(let file):
            file.namedTensors.map {
                InspectedTensor(
                    name: $0.name, type: .plain($0.dtype), shape: $0.shape, byteCount: $0.byteCount,
                    file: $0.path ?? FileSystem.lastComponent(file.path), place: nil, label: $0.label)
            }
        case .gguf(let file):
            file.tensors.values.elements.map {
                InspectedTensor(
                    name: $0.name, type: ElementType($0.type), shape: $0.shape, byteCount: $0.byteRange.count,
                    file: FileSystem.lastComponent(file.path), place: (file.file, $0.byteRange))
            }
        }
    }

    /// The names of all tensors, folded. This looks into the files' own tables and copies nothing.
    func folded() -> FoldedNames<TensorForm> {
        var names = FoldedNames<TensorForm>()
        switch self {
        case .safetensors(let files):
            for file in files {
                for tensor in file.tensors.values.elements { names.insert(tensor.name, TensorForm(type: .plain(tensor.dtype), shape: tensor.shape)) }
            }
        case .checkpoint(let file):
            for tensor in file.namedTensors { names.insert(tensor.name, TensorForm(type: .plain(tensor.dtype), shape: tensor.shape)) }
        case .gguf(let file):
            for tensor in file.tensors.values.elements { names.insert(tensor.name, TensorForm(type: ElementType(tensor.type), shape: tensor.shape)) }
        }
        return names
    }
}
