internal import FileIO
internal import JSON
internal import NativeCheckpoint
internal import OrderedCollections
internal import Tensors

/// What of a damaged file goes where.
struct SalvagePlan {
    /// A tensor that goes into the file of tensors.
    struct Loose {
        /// Its position among the tensors.
        let tensor: Int
        /// What it is called there: its label, unless that is taken or not allowed.
        let name: String
    }

    private let checkpoint: DamagedCheckpoint
    private let conditions: [DamagedCheckpoint.Condition]
    /// The files that are whole and may be written under their paths.
    let files: [DamagedCheckpoint.File]
    private(set) var loose: [Loose] = []
    /// For each tensor its path in the output and its name there.
    private var places: [(path: String, name: String?)?]

    /// A longer part of a path is no name for most file systems.
    private static let longestPart = 255
    private static let longestPath = 3000

    init(_ checkpoint: DamagedCheckpoint, conditions: [DamagedCheckpoint.Condition]) {
        self.checkpoint = checkpoint
        self.conditions = conditions
        files = Self.whole(checkpoint.files.filter { $0.isClosed && $0.tensors.allSatisfy { conditions[$0].isWhole } })
        places = conditions.map { _ in nil }
        for file in files {
            for tensor in file.tensors { places[tensor] = (FileSystem.join(Salvage.filesName, file.path ?? ""), nil) }
        }
        let labels = Self.labels(of: checkpoint)
        var names: Set<String> = ["__metadata__"]
        for (tensor, condition) in conditions.enumerated() where condition.isWhole && places[tensor] == nil {
            var name = labels[tensor]
            while !names.insert(name).inserted { name += "#\(checkpoint.tensors[tensor].number)" }
            loose.append(Loose(tensor: tensor, name: name))
            places[tensor] = (Salvage.tensorsName, name)
        }
    }

    /// Those whose paths do not get into each other's way: of two the first stays.
    private static func whole(_ files: [DamagedCheckpoint.File]) -> [DamagedCheckpoint.File] {
        var taken: Set<String> = []
        var folders: Set<String> = []
        return files.filter { file in
            guard let path = file.path, path.utf8.count <= longestPath else { return false }
            let parts = path.utf8.split(separator: UInt8(ascii: "/")).map { String(Substring($0)) }
            guard parts.allSatisfy({ $0.utf8.count <= longestPart }) else { return false }
            let prefixes = parts.indices.dropFirst().map { parts[..<$0].joined(separator: "/") }
            let whole = parts.joined(separator: "/")
            guard !prefixes.contains(where: taken.contains), !taken.contains(whole), file.isFolder || !folders.contains(whole) else { return false }
            folders.formUnion(prefixes)
            if file.isFolder { folders.insert(whole) } else { taken.insert(whole) }
            return true
        }
    }

    /// `path:name` for the tensors of a packed file, `file-N:name` where its path is not known.
    private static func labels(of checkpoint: DamagedCheckpoint) -> [String] {
        var labels = checkpoint.tensors.map(\.name)
        for file in checkpoint.files {
            for tensor in file.tensors { labels[tensor] = (file.path ?? "file-\(file.number)") + ":" + labels[tensor] }
        }
        return labels
    }

    /// Without the footer nobody knows whether this is everything.
    var isComplete: Bool {
        checkpoint.fault == nil && conditions.allSatisfy(\.isWhole) && files.count == checkpoint.files.count
    }
}

extension SalvagePlan {
    static let schema = "oplora.salvaged/1"

    /// Writes what was found, entry by entry, for there may be very many.
    func writeReport(to file: AtomicFile) throws(FileError) {
        var head: OrderedDictionary<String, JSONValue> = [
            "schema": .string(Self.schema), "input": .string(FileSystem.lastComponent(checkpoint.path)), "complete": .bool(isComplete),
            "footer": checkpoint.fault.map { ["intact": false, "code": .string($0.code.rawValue)] } ?? ["intact": true],
            "searchCutShort": .bool(checkpoint.isCutShort),
        ]
        if let footer = checkpoint.footer {
            head["kind"] = .string(footer.kind)
            head["metadata"] = .object(footer.metadata)
        }
        try file.write(Array(JSONValue.object(head).serialized().utf8.dropLast()))
        let saved = Set(files.map(\.number))
        try writeList("files", checkpoint.files, to: file) { file in
            [
                "number": .integer(file.number), "path": file.path.map(JSONValue.string) ?? .null, "tensors": .integer(file.tensors.count),
                "whole": .bool(file.isClosed && saved.contains(file.number)),
            ]
        }
        try writeList("tensors", Array(zip(checkpoint.tensors.indices, conditions)), to: file, entry(of:))
        try writeList("unplaced", checkpoint.unplaced, to: file) { chunk in
            [
                "reason": .string(chunk.reason.rawValue), "tensor": .integer(chunk.tensor), "chunk": .integer(chunk.chunk),
                "offset": .integer(chunk.offset), "bytes": .integer(chunk.byteCount),
            ]
        }
        try file.write(Array("\n}\n".utf8))
    }

    private func entry(of found: (position: Int, condition: DamagedCheckpoint.Condition)) -> JSONValue {
        let tensor = checkpoint.tensors[found.position]
        func ranges(_ ranges: [Range<Int>]) -> JSONValue {
            .array(ranges.map { [.integer($0.lowerBound), .integer($0.upperBound)] })
        }
        var members: OrderedDictionary<String, JSONValue> = [
            "number": .integer(tensor.number), "name": .string(tensor.name), "dtype": .string(tensor.dtype.rawValue),
            "shape": .array(tensor.shape.map(JSONValue.integer)), "bytes": .integer(tensor.byteCount),
            "whole": .bool(found.condition.isWhole),
        ]
        if let file = tensor.file { members["file"] = .integer(file) }
        if !found.condition.lost.isEmpty { members["lost"] = ranges(found.condition.lost) }
        if !found.condition.differences.isEmpty { members["differences"] = ranges(found.condition.differences) }
        switch found.condition.isHashRight {
        case true?: members["vouchedBy"] = "sha256"
        case false?: members["vouchedBy"] = "nothing"
        case nil: members["vouchedBy"] = "chunk-checksums"
        }
        if let place = places[found.position] {
            members["savedIn"] = .string(place.path)
            if let name = place.name { members["savedAs"] = .string(name) }
        }
        return .object(members)
    }

    private func writeList<Element>(
        _ key: String, _ elements: [Element], to file: AtomicFile, _ entry: (Element) -> JSONValue
    ) throws(FileError) {
        try file.write(Array(",\n\"\(key)\":[".utf8))
        for (number, element) in elements.enumerated() {
            try file.write(Array(((number == 0 ? "\n" : ",\n") + entry(element).serialized()).utf8))
        }
        try file.write(Array("]".utf8))
    }
}
