internal import JSON
internal import OrderedCollections
internal import Tensors

/// A packed file: its path inside the pack, and how many of the tensors that follow those of the files before are its own.
struct PackedFile: Equatable, Sendable {
    let path: String
    var tensors: Int

    /// An empty folder's path ends with a slash.
    var isFolder: Bool { path.utf8.last == UInt8(ascii: "/") }
}

/// The footer's text: a JSON object with a fixed set of keys in a fixed order.
struct Footer {
    /// One entry of the tensor table.
    struct Entry: Equatable {
        let name: String
        let dtype: DType
        let shape: [Int]
        let base: CheckpointTensor.Base?
        let sha256: String?
        /// Computed from dtype and shape.
        let byteCount: Int
    }

    let kind: String
    let metadata: OrderedDictionary<String, JSONValue>
    let chunkSize: Int
    /// The packed files; `nil` where the tensors belong to none.
    let files: [PackedFile]?
    let entries: [Entry]

    /// The text without white space.
    var encoded: [UInt8] {
        var footer: OrderedDictionary<String, JSONValue> = [
            "format": "opck",
            "version": .integer(Int(Format.version)),
            "kind": .string(kind),
            "chunkSize": .integer(chunkSize),
            "metadata": .object(metadata),
        ]
        if let files { footer["files"] = .array(files.map { ["path": .string($0.path), "tensors": .integer($0.tensors)] }) }
        footer["tensors"] = .array(entries.map(\.json))
        return Array(JSONValue.object(footer).serialized().utf8)
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
            of: value, ["format", "version", "kind", "chunkSize", "metadata", "tensors"], optional: ["files"], of: "the footer", at: offset)
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
        let files = try Self.files(members["files"], kind: kind, tensors: tensors.count, at: offset)
        self.files = files
        var fileNumbers = (files ?? []).enumerated().flatMap { repeatElement($0.offset, count: $0.element.tensors) }.makeIterator()
        var entries: [Entry] = []
        entries.reserveCapacity(tensors.count)
        // Strings compare by canonical equivalence, which is what the format asks for.
        var labels: Set<String> = []
        var total = 0
        for tensor in tensors {
            let entry = try Entry(parsing: tensor, at: offset, limits: limits)
            let path = fileNumbers.next().flatMap { files?[$0].path }
            guard labels.insert(CheckpointTensor.label(name: entry.name, path: path)).inserted else {
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

    /// The packed files, which are there for the kinds of packed files and for no other.
    private static func files(_ value: JSONValue?, kind: String, tensors: Int, at offset: Int) throws(CheckpointError) -> [PackedFile]? {
        let isPack = kind == Format.fileKind || kind == Format.folderKind
        guard let value else {
            guard !isPack else { throw fault(offset, "the footer has no \"files\"") }
            return nil
        }
        guard isPack, case .array(let list) = value, list.count <= CheckpointLimits.format.tensors else {
            throw fault(offset, "\"files\" of the footer is not a list of at most 1,048,576, or the kind is not that of packed files")
        }
        var files: [PackedFile] = []
        var paths: Set<String> = []
        var rest = tensors
        for entry in list {
            let members = try members(of: entry, ["path", "tensors"], of: "an entry of \"files\"", at: offset)
            guard case .string(let path) = members["path"], Format.isPath(path) else {
                throw CheckpointError(
                    .pathInvalid, at: offset, "the path of a packed file is absolute, leads out of its folder, or has an empty part")
            }
            guard paths.insert(path).inserted else {
                throw CheckpointError(.pathInvalid, at: offset, "two packed files have the path \"\(path)\"")
            }
            guard case .integer(let count) = members["tensors"] else {
                throw fault(offset, "the number of tensors of \"\(path)\" is not an integer")
            }
            let file = PackedFile(path: path, tensors: count)
            guard count >= 0, count <= rest, !file.isFolder || count == 0 else {
                throw fault(offset, "\"\(path)\" has \(count) tensors, which are not there or not for a folder")
            }
            rest -= count
            files.append(file)
        }
        guard rest == 0 else { throw fault(offset, "\(rest) tensors belong to no packed file") }
        guard kind == Format.folderKind || (files.count == 1 && !files[0].path.utf8.contains(UInt8(ascii: "/"))) else {
            throw CheckpointError(.pathInvalid, at: offset, "a pack of one file has not exactly one, with a name of one part")
        }
        return files
    }

    fileprivate static func fault(_ offset: Int, _ message: String) -> CheckpointError {
        CheckpointError(.footerField, at: offset, message + "; the file breaks the format")
    }

    /// The members of an object that has all of `keys` and beside them only some of `optional`.
    fileprivate static func members(
        of value: JSONValue, _ keys: [String], optional: [String] = [], of what: String, at offset: Int
    ) throws(CheckpointError) -> OrderedDictionary<String, JSONValue> {
        guard case .object(let members) = value else { throw fault(offset, "\(what) is \(value.kind) and not an object") }
        for key in keys where members[key] == nil { throw fault(offset, "\(what) has no \"\(key)\"") }
        for key in members.keys where !keys.contains(key) && !optional.contains(key) {
            throw fault(offset, "\(what) has a member \"\(key)\" that version 1 does not have")
        }
        return members
    }
}

extension Footer.Entry {
    fileprivate init(parsing value: JSONValue, at offset: Int, limits: CheckpointLimits) throws(CheckpointError) {
        let members = try Footer.members(
            of: value, ["name", "dtype", "shape"], optional: ["base", "sha256"], of: "an entry of the tensor table",
            at: offset)
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
        sha256 = try members["sha256"].map { value throws(CheckpointError) in try Self.sha256(value, of: name, at: offset) }
        base = try members["base"].map { value throws(CheckpointError) in
            let members = try Footer.members(of: value, ["name", "sha256"], of: "the base of tensor \"\(name)\"", at: offset)
            guard case .string(let base) = members["name"], let hash = members["sha256"], Format.isName(base) else {
                throw Footer.fault(offset, "the base of tensor \"\(name)\" has no name")
            }
            return CheckpointTensor.Base(name: base, sha256: try Self.sha256(hash, of: name, at: offset))
        }
        self.dtype = dtype
        self.shape = shape
        self.byteCount = byteCount
    }
    private static func sha256(_ value: JSONValue, of name: String, at offset: Int) throws(CheckpointError) -> String {
        guard case .string(let text) = value, text.utf8.count == 64,
            text.utf8.allSatisfy({
                (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) || (UInt8(ascii: "a")...UInt8(ascii: "f")).contains($0)
            })
        else { throw Footer.fault(offset, "a hash of tensor \"\(name)\" is not 64 lower-case hexadecimal digits") }
        return text
    }

    fileprivate var json: JSONValue {
        var members: OrderedDictionary<String, JSONValue> = [
            "name": .string(name),
            "dtype": .string(dtype.rawValue),
            "shape": .array(shape.map(JSONValue.integer)),
        ]
        if let base { members["base"] = ["name": .string(base.name), "sha256": .string(base.sha256)] }
        if let sha256 { members["sha256"] = .string(sha256) }
        return .object(members)
    }
}
