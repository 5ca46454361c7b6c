package import Adapters
internal import Execution
internal import FileIO
internal import GGUF
package import JSON
package import NativeCheckpoint
package import OrderedCollections
package import Packing
internal import Safetensors
internal import Tensors
internal import Training
package import Weights

/// A tensor of a file of any kind, with its bytes.
package struct ComparedTensor: Sendable {
    package let type: ElementType
    package let shape: [Int]
    package let bytes: any ByteSource

    package var elementCount: Int { shape.reduce(1, &*) }

    /// Some of its elements; `nil` where their bytes are not taken apart here.
    package func part(_ elements: Range<Int>) -> ComparedTensor? {
        guard case .plain(let dtype) = type, dtype.bitWidth % 8 == 0 else { return nil }
        let width = shape.dropFirst().reduce(1, &*)
        let isOfRows = shape.count > 1 && width > 0 && elements.lowerBound % width == 0 && elements.count % width == 0
        let size = dtype.bitWidth / 8
        return ComparedTensor(
            type: type, shape: isOfRows ? [elements.count / width] + shape.dropFirst() : [elements.count],
            bytes: PartOfBytes(whole: bytes, range: elements.lowerBound * size..<elements.upperBound * size))
    }
}

extension ComparedTensor {
    /// The same bytes in another tensor's shape, where it has as many elements.
    package func like(_ other: ComparedTensor) -> ComparedTensor {
        elementCount == other.elementCount ? ComparedTensor(type: type, shape: other.shape, bytes: bytes) : self
    }
}

/// Some of the bytes of a source.
private struct PartOfBytes: ByteSource {
    package let whole: any ByteSource
    package let range: Range<Int>

    package var byteCount: Int { range.count }

    package func withBytes(in part: Range<Int>, _ body: (RawSpan) throws -> Void) throws { try whole.withBytes(in: place(part), body) }

    package func release(_ part: Range<Int>) { whole.release(place(part)) }

    private func place(_ part: Range<Int>) -> Range<Int> { range.lowerBound + part.lowerBound..<range.lowerBound + part.upperBound }
}

/// One of the two things that are compared.
package struct ComparedFile {
    package let path: String
    /// In the order of the files.
    package let tensors: OrderedDictionary<String, ComparedTensor>
    package let isFolder: Bool
    /// The components of a pipeline.
    private let components: [String]
    /// `config.json` of a model's folder.
    package let configuration: JSONValue?
    /// What an adapter's tensors mean; `nil` for anything else, and for adapters that are not read here.
    package let adapter: Adapter?
    /// Whether it is a training run, from which an adapter comes.
    package let isRun: Bool

    /// - Parameter base: what tensors of packs are stored as differences to.
    /// - Throws: the errors of the format that `path` turns out to be.
    package init(path: String, base: BaseFiles?) throws {
        self.path = path
        isFolder = try FileSystem.status(of: path).isFolder
        if !isFolder, CheckpointFile.claims(path) {
            let file = try CheckpointFile(path: path)
            tensors = try Self.tensors(of: file, base: base)
            (components, configuration, adapter, isRun) = ([], nil, nil, file.packedFiles == nil && file.kind == TrainingCheckpoint.kind)
            return
        }
        isRun = false
        if !GGUFFile.claims(path), let weights = Adapter.weightsPath(at: path) {
            let file = try SafetensorsFile(path: weights)
            tensors = file.tensors.mapValues { tensor in
                ComparedTensor(type: .plain(tensor.dtype), shape: tensor.shape, bytes: MappedBytes(file.file, tensor.byteRange))
            }
            (components, configuration) = ([], nil)
            adapter = try Self.adapter(at: path)
        } else {
            let files = try ModelWeights(path: path, decodes: false)
            components = files.components
            tensors = files.stored.mapValues { tensor in
                ComparedTensor(type: tensor.type, shape: tensor.shape, bytes: MappedBytes(tensor.file, tensor.range))
            }
            configuration = isFolder ? try Self.configuration(of: path) : nil
            adapter = files.shards.contains { $0.gguf != nil } ? try Self.adapter(at: path) : nil
        }
    }

    /// The adapter, also one that a run collapses to.
    package var update: Adapter? { get throws { isRun ? try CollapsedRun(path: path).adapter : adapter } }

    /// Whether it is an adapter of any kind.
    package var isAdapter: Bool { adapter != nil || isRun || AdapterMethod(tensors: tensors.keys) != nil }

    /// The names and shapes of the tensors.
    package var names: TensorCorrespondence.Model {
        TensorCorrespondence.Model(shapes: tensors.mapValues(\.shape), components: components, configuration: configuration)
    }

    /// Those of a checkpoint; of a pack those of all its files, under the names that the model's folder gives them.
    private static func tensors(of file: CheckpointFile, base: BaseFiles?) throws -> OrderedDictionary<String, ComparedTensor> {
        var tensors: OrderedDictionary<String, ComparedTensor> = [:]
        for tensor in file.tensors.values where tensor.path == nil || !tensor.name.isEmpty {
            if tensor.base != nil, base == nil {
                throw InspectionError(
                    .differencesWithoutBase, path: file.path,
                    "tensor \(tensor.label) is stored as the difference to another model, which must be given")
            }
            let folder = tensor.path.map { FileSystem.parent(of: $0) } ?? "."
            let name = folder == "." ? tensor.name : "\(folder.replacing("/", with: ".")).\(tensor.name)"
            let value = ComparedTensor(
                type: .plain(tensor.dtype), shape: tensor.shape, bytes: try file.source(of: tensor, base: tensor.base == nil ? nil : base))
            tensors[tensors[name] == nil ? name : tensor.label] = value
        }
        return tensors
    }

    /// What the tensors of an adapter mean; `nil` for one of a kind that is not read, or without the configuration that would say: it has
    /// tensors all the same.
    private static func adapter(at path: String) throws -> Adapter? {
        do {
            return try Adapter.read(path: path)
        } catch let error as AdapterError where error.isOfWhatIsNotSupported || error.code == .missingFile || error.code == .unknownDialect {
            return nil
        } catch is GGUFError {
            // A model, and no adapter.
            return nil
        }
    }

    private static func configuration(of folder: String) throws -> JSONValue? {
        let path = FileSystem.join(folder, "config.json")
        guard FileSystem.exists(path) else { return nil }
        do {
            return try JSONValue(configuration: try FileSystem.contents(of: path, limit: 16_000_000))
        } catch let error as JSONError {
            throw InspectionError(.invalidConfiguration, path: path, "\(error)")
        }
    }
}
