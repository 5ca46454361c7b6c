internal import FileIO
internal import Hashing
internal import JSON
internal import OrderedCollections
internal import Safetensors
internal import Tensors

/// What lies in a merged folder beside the weights.
extension MergePlan {
    /// The index, the configuration, the receipt, and the files that are copied.
    func writeOtherFiles(in folder: AtomicFolder, hashes: [String: String], options: RunOptions) throws -> (
        copied: [String], leftOut: [String]
    ) {
        func write(_ value: JSONValue, _ name: String) throws {
            let file = try AtomicFile(path: folder.path(of: name), replacing: false)
            try file.write(Array(value.serialized(pretty: true).utf8))
            try file.publish(durable: options.isDurable)
        }
        try write(receipt(hashes: hashes), ModelFolder.receiptName)
        guard FileSystem.isFolder(base.path) else { return ([], []) }
        for part in base.parts { try writeIndex(of: part, in: folder, isDurable: options.isDurable, write) }
        let others = try ModelFolder(base)
        var made = Set(base.parts.map(\.name))
        for name in others.copied {
            var parents: [String] = []
            for component in name.split(separator: "/").dropLast() {
                parents.append(String(component))
                let parent = parents.joined(separator: "/")
                if made.insert(parent).inserted { try FileSystem.createFolder(folder.path(of: parent)) }
            }
            if let configuration = try configuration(name) {
                try write(configuration, name)
            } else {
                try ModelFolder.copy(FileSystem.join(base.path, name), to: folder.path(of: name), isDurable: options.isDurable)
            }
        }
        return (others.copied, others.leftOut)
    }

    /// The index of a part of the model, where it has one: the base's, unless tensors were added or their sizes have changed.
    private func writeIndex(
        of part: WeightFiles.Part, in folder: AtomicFolder, isDurable: Bool, _ write: (JSONValue, String) throws -> Void
    ) throws {
        guard let (name, index) = part.index else { return }
        let path = part.path(of: name)
        let all = jobs.filter { part.shards.contains($0.tensor.shard) }
        let added = all.filter { base.tensors[$0.tensor.name] == nil }
        let byteCount = all.reduce(0) { $0 + $1.outputByteCount }
        if index["metadata"]?["total_size"]?.integerValue == byteCount, added.isEmpty {
            return try ModelFolder.copy(FileSystem.join(base.path, path), to: folder.path(of: path), isDurable: isDurable)
        }
        var members = index.objectValue ?? [:]
        var metadata = members["metadata"]?.objectValue ?? [:]
        metadata["total_size"] = .integer(byteCount)
        members["metadata"] = .object(metadata)
        var map = members["weight_map"]?.objectValue ?? [:]
        for job in added {
            map[String(job.tensor.name.dropFirst(part.prefix.count))] = .string(FileSystem.lastComponent(base.shards[job.tensor.shard].path))
        }
        members["weight_map"] = .object(map)
        try write(.object(members), path)
    }

    /// What was merged into what, without times and places, so that the same merge gives the same bytes.
    private func receipt(hashes: [String: String]) -> JSONValue {
        var members: OrderedDictionary<String, JSONValue> = [
            "schema": "oplora.merge-receipt/1",
            "base": .string(FileSystem.lastComponent(base.path)),
            "dtype": dtype.map { .string($0.rawValue) } ?? "keep",
            "adapters": .array(model.adapters.map { receipt(of: $0) }),
            "coverage": [
                "tensors": .integer(jobs.count), "changed": .integer(jobs.count(where: \.isChanged)),
                "added": .array(jobs.filter { base.tensors[$0.tensor.name] == nil }.map { .string($0.tensor.name) }),
            ],
            "configuration": .object(OrderedDictionary(uniqueKeysWithValues: model.changedConfiguration.sorted { $0.key < $1.key })),
        ]
        if !hashes.isEmpty {
            members["sha256"] = .object(OrderedDictionary(uniqueKeysWithValues: jobs.map { ($0.tensor.name, .string(hashes[$0.tensor.name] ?? "")) }))
        }
        return .object(members)
    }

    private func receipt(of item: WeightedAdapter) -> JSONValue {
        let hash = item.adapter.weightsPath.flatMap { try? MappedFile(path: $0) }.map { file in
            var digest = SHA256Digest()
            for start in stride(from: 0, to: file.count, by: Self.pieceBytes) {
                let range = start..<min(start + Self.pieceBytes, file.count)
                digest.update(file.bytes(in: range))
                file.release(range)
            }
            return digest.finishHex()
        }
        return [
            "name": .string(FileSystem.lastComponent(item.adapter.path)), "dialect": .string(item.adapter.dialect.rawValue),
            "weight": .real(item.weight), "sha256": hash.map { .string($0) } ?? .null,
            "modules": .array(
                item.adapter.modules.map { module in
                    [
                        "module": .string(module.label.text), "kind": .string(module.kind.rawValue), "rank": .integer(module.rank),
                        "scale": .real(module.scale * item.weight), "magnitude": .bool(module.magnitude != nil),
                    ]
                }),
            "replaced": .array(item.adapter.replacements.map { .string($0.tensor) }),
        ]
    }
}
