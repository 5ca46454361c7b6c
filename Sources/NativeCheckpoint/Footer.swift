internal import JSON
internal import OrderedCollections
internal import Tensors

/// The footer's text: a JSON object with a fixed set of keys in a fixed order.
struct Footer {
    /// One entry of the tensor table.
    struct Entry: Equatable {
        let name: String
        let dtype: DType
        let shape: [Int]
        let sha256: String
        let firstChunk: Int
        let chunkCount: Int
        /// Computed from dtype and shape.
        let byteCount: Int
    }

    let kind: String
    let metadata: OrderedDictionary<String, JSONValue>
    let chunkSize: Int
    let entries: [Entry]

    /// The text without white space.
    var encoded: [UInt8] {
        let tensors = entries.map { entry in
            JSONValue.object([
                "name": .string(entry.name),
                "dtype": .string(entry.dtype.rawValue),
                "shape": .array(entry.shape.map(JSONValue.integer)),
                "sha256": .string(entry.sha256),
                "firstChunk": .integer(entry.firstChunk),
                "chunks": .integer(entry.chunkCount),
            ])
        }
        let footer = JSONValue.object([
            "format": "opck",
            "version": .integer(Int(Format.version)),
            "kind": .string(kind),
            "chunkSize": .integer(chunkSize),
            "metadata": .object(metadata),
            "tensors": .array(tensors),
        ])
        return Array(footer.serialized().utf8)
    }
}

extension Footer {
    /// Reads and checks the text, which begins at `offset` of the file and whose hash has been checked.
    init(parsing text: [UInt8], at offset: Int, limits: CheckpointLimits) throws(CheckpointError) {
        let value: JSONValue
        do {
            value = try JSONValue(parsing: text)
        } catch {
            throw CheckpointError(.footerSyntax, at: offset + (error.offset ?? 0), "the footer is not strict JSON (\(error.message))")
        }
        let members = try Self.members(
            of: value, ["format", "version", "kind", "chunkSize", "metadata", "tensors"], of: "the footer", at: offset)
        guard members["format"] == "opck", members["version"] == .integer(Int(Format.version)) else {
            throw Self.fault(offset, "\"format\" or \"version\" of the footer do not say opck \(Format.version)")
        }
        guard case .string(let kind) = members["kind"], Format.isKind(kind) else {
            throw CheckpointError(.kindInvalid, at: offset, "\"kind\" of the footer is not 1 to 64 of a-z, 0-9, '.' and '-'")
        }
        guard case .integer(let chunkSize) = members["chunkSize"], Format.isChunkSize(chunkSize) else {
            throw Self.fault(offset, "\"chunkSize\" of the footer is not a multiple of 64 from 64 to 1,048,576")
        }
        guard case .object(let metadata) = members["metadata"] else {
            throw Self.fault(offset, "\"metadata\" of the footer is not an object")
        }
        guard case .array(let tensors) = members["tensors"] else {
            throw Self.fault(offset, "\"tensors\" of the footer is not a list")
        }
        guard tensors.count <= min(limits.tensors, CheckpointLimits.format.tensors) else {
            throw CheckpointError(.limitTensors, at: offset, "the file has \(tensors.count) tensors, more than is allowed")
        }
        self.kind = kind
        self.metadata = metadata
        self.chunkSize = chunkSize
        var entries: [Entry] = []
        entries.reserveCapacity(tensors.count)
        // Strings compare by canonical equivalence, which is what the format asks for.
        var names: Set<String> = []
        var total = 0
        for tensor in tensors {
            let entry = try Entry(parsing: tensor, at: offset, limits: limits)
            guard names.insert(entry.name).inserted else {
                throw CheckpointError(.nameDuplicate, tensor: entry.name, at: offset, "two tensors have this name")
            }
            let (sum, overflow) = total.addingReportingOverflow(entry.byteCount)
            guard !overflow, sum <= min(limits.rawBytes, CheckpointLimits.format.rawBytes) else {
                throw CheckpointError(
                    .limitRawBytes, tensor: entry.name, at: offset, "up to this tensor the file decodes to more bytes than are allowed")
            }
            total = sum
            entries.append(entry)
        }
        self.entries = entries
    }

    fileprivate static func fault(_ offset: Int, _ message: String) -> CheckpointError {
        CheckpointError(.footerField, at: offset, message + "; the file breaks the format")
    }

    /// The members of an object that has exactly the given keys.
    fileprivate static func members(
        of value: JSONValue, _ keys: [String], of what: String, at offset: Int
    ) throws(CheckpointError) -> OrderedDictionary<String, JSONValue> {
        guard case .object(let members) = value else { throw fault(offset, "\(what) is \(value.kind) and not an object") }
        for key in keys where members[key] == nil { throw fault(offset, "\(what) has no \"\(key)\"") }
        guard members.count == keys.count else {
            let extra = members.keys.first { !keys.contains($0) } ?? ""
            throw fault(offset, "\(what) has a member \"\(extra)\" that version 1 does not have")
        }
        return members
    }
}

extension Footer.Entry {
    fileprivate init(parsing value: JSONValue, at offset: Int, limits: CheckpointLimits) throws(CheckpointError) {
        let members = try Footer.members(
            of: value, ["name", "dtype", "shape", "sha256", "firstChunk", "chunks"], of: "an entry of the tensor table", at: offset)
        guard case .string(let name) = members["name"] else { throw Footer.fault(offset, "the name of a tensor is not a string") }
        guard Format.isName(name) else {
            throw CheckpointError(.nameInvalid, at: offset, "the name of a tensor has more than 65,535 bytes or holds a NUL")
        }
        self.name = name
        guard case .string(let dtypeName) = members["dtype"], let dtype = DType(rawValue: dtypeName) else {
            throw CheckpointError(.dtypeUnknown, tensor: name, at: offset, "the element type is none that version 1 knows")
        }
        guard case .array(let dimensions) = members["shape"] else {
            throw CheckpointError(.shapeInvalid, tensor: name, at: offset, "the shape is not a list")
        }
        guard dimensions.count <= min(limits.rank, CheckpointLimits.format.rank) else {
            throw CheckpointError(
                .limitRank, tensor: name, at: offset, "the tensor has \(dimensions.count) dimensions, more than are allowed")
        }
        var shape: [Int] = []
        for dimension in dimensions {
            guard case .integer(let size) = dimension else {
                throw CheckpointError(.shapeInvalid, tensor: name, at: offset, "a dimension of the shape is not an integer")
            }
            shape.append(size)
        }
        guard let byteCount = CheckedSize.byteCount(of: shape, dtype: dtype) else {
            throw CheckpointError(
                .shapeInvalid, tensor: name, at: offset,
                "the shape \(describe(shape: shape)) of \(dtype) is negative, overflows, or leaves a byte unfilled")
        }
        guard case .string(let sha256) = members["sha256"], sha256.utf8.count == 64,
            sha256.utf8.allSatisfy({
                (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) || (UInt8(ascii: "a")...UInt8(ascii: "f")).contains($0)
            })
        else { throw Footer.fault(offset, "the hash of tensor \"\(name)\" is not 64 lower-case hexadecimal digits") }
        guard case .integer(let firstChunk) = members["firstChunk"], firstChunk >= 0,
            case .integer(let chunkCount) = members["chunks"], chunkCount >= 0
        else { throw Footer.fault(offset, "the chunks of tensor \"\(name)\" are not given as two integers from 0 up") }
        self.dtype = dtype
        self.shape = shape
        self.sha256 = sha256
        self.firstChunk = firstChunk
        self.chunkCount = chunkCount
        self.byteCount = byteCount
    }
}
