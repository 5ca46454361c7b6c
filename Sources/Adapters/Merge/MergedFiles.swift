internal import FileIO
internal import JSON
internal import OrderedCollections
internal import Safetensors
internal import Tensors
internal import Weights

/// What lies in a merged folder beside the weights.
extension MergePlan {
    /// The index, the configuration, the receipt, and the files that are copied.
    func writeOtherFiles(in folder: AtomicFolder, _ result: MergeResult, options: RunOptions) throws -> OtherFiles {
        func write(_ value: JSONValue, _ name: String) throws {
            let file = try AtomicFile(path: folder.path(of: name), replacing: false)
            try file.write(Array(value.configurationText().utf8))
            try file.publish(durable: options.isDurable)
        }
        guard let others else {
            let folder = FileSystem.parent(of: base.path)
            let hasMore = FileSystem.exists(FileSystem.join(folder, BaseModel.configurationName))
            let files = OtherFiles(
                copied: [], leftOut: [], tokenizer: .init(adapter: nil, fromAdapter: [], fromBase: []),
                remarks: hasMore
                    ? ["the base is one file, and config.json and the tokenizer beside it are not copied; name its folder for a whole model"] : [])
            try write(receipt(result, files), ModelFolder.receiptName)
            return files
        }
        for part in base.parts { try writeIndex(of: part, in: folder, isDurable: options.isDurable, write) }
        let kept = others.copied.filter { !tokenizer.supersedes($0) }
        var made = Set(base.parts.map(\.name))
        func makeFolders(of name: String) throws {
            var parents: [String] = []
            for component in name.split(separator: "/").dropLast() {
                parents.append(String(component))
                let parent = parents.joined(separator: "/")
                if made.insert(parent).inserted { try FileSystem.createFolder(folder.path(of: parent)) }
            }
        }
        for name in kept {
            try makeFolders(of: name)
            if let configuration = try configuration(name) {
                try write(configuration, name)
            } else {
                try ModelFolder.copy(FileSystem.join(base.path, name), to: folder.path(of: name), isDurable: options.isDurable)
            }
        }
        for name in tokenizer.names {
            try makeFolders(of: name)
            try ModelFolder.copy(FileSystem.join(tokenizer.folder ?? "", name), to: folder.path(of: name), isDurable: options.isDurable)
        }
        func sorted(_ names: [String]) -> [String] { names.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) } }
        let dropped = others.copied.filter { tokenizer.supersedes($0) && !tokenizer.names.contains($0) }
        let files = OtherFiles(
            copied: sorted(kept + tokenizer.names), leftOut: sorted(others.leftOut + dropped + tokenizer.leftOut),
            tokenizer: .init(
                adapter: tokenizer.owner.map { FileSystem.lastComponent($0.path) }, fromAdapter: tokenizer.names,
                fromBase: base.isPipeline ? [] : kept.filter(TokenizerFiles.claims)),
            remarks: vocabularyRemarks + indexRemarks + componentRemarks)
        try write(receipt(result, files), ModelFolder.receiptName)
        return files
    }

    /// The files beside the weights.
    struct OtherFiles {
        let copied: [String]
        let leftOut: [String]
        let tokenizer: MergeReport.Tokenizer
        let remarks: [String]
    }

    /// Where tokenizer and embedding do not fit.
    private var vocabularyRemarks: [String] {
        let sizes = jobs.filter { BaseModel.isEmbedding($0.tensor.name) }.compactMap(\.tensor.shape.first)
        guard let size = sizes.min() else { return [] }
        if let owner = tokenizer.owner, let largest = tokenizer.largestToken, largest >= size {
            return [
                "the tokenizer of \(FileSystem.lastComponent(owner.path)) has tokens up to number \(largest), and the merged model has embeddings for \(size), numbers 0 to \(size - 1): it cannot read the others"
            ]
        }
        if model.changedConfiguration["vocab_size"] != nil, !tokenizer.hasVocabulary {
            return ["an adapter brings a vocabulary of \(size) tokens, and the tokenizer in the merged folder is the base's"]
        }
        return []
    }

    /// The paths of all files of the merged folder, so that it is known again.
    private func paths(beside copied: [String]) -> [String] {
        let weights = base.parts.flatMap { part in
            base.shards[part.shards].map { part.path(of: FileSystem.lastComponent($0.path)) }
                + (indexName(of: part).map { [part.path(of: $0)] } ?? [])
        }
        return (copied + weights + [ModelFolder.receiptName]).sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
    }

    /// What the index of a part is called; `nil` for a single file.
    private func indexName(of part: ModelWeights.Part) -> String? {
        guard FileSystem.isFolder(base.path) else { return nil }
        return part.index?.name ?? ModelWeights.indexName(ofShard: base.shards[part.shards.lowerBound].path)
    }

    /// An index such as transformers writes, for shards that have none.
    private func index(of jobs: [TensorJob], in part: ModelWeights.Part) -> JSONValue {
        let map = jobs.map { job in
            (String(job.tensor.name.dropFirst(part.prefix.count)), JSONValue.string(FileSystem.lastComponent(base.shards[job.tensor.shard].path)))
        }.sorted { $0.0.utf8.lexicographicallyPrecedes($1.0.utf8) }
        return [
            "metadata": [
                "total_parameters": .integer(jobs.reduce(0) { $0 + $1.tensor.source.elementCount }),
                "total_size": .integer(jobs.reduce(0) { $0 + $1.outputByteCount }),
            ],
            "weight_map": .object(OrderedDictionary(uniqueKeysWithValues: map)),
        ]
    }

    /// What is in the folder that the base's has not.
    private var indexRemarks: [String] {
        base.parts.filter { $0.index == nil }.compactMap { part in
            indexName(of: part).map {
                "the base's shards have no index, and transformers loads none without; the merged model has one, \(part.path(of: $0))"
            }
        }
    }

    /// What a pipeline lacks.
    private var componentRemarks: [String] {
        base.missingComponents.isEmpty
            ? [] : ["the pipeline names \(base.missingComponents.joined(separator: ", ")), and has no such folder, nor has the merged one"]
    }

    /// The index of a part of the model, where it has one: the base's, unless tensors were added or their sizes have changed.
    private func writeIndex(
        of part: ModelWeights.Part, in folder: AtomicFolder, isDurable: Bool, _ write: (JSONValue, String) throws -> Void
    ) throws {
        guard let name = indexName(of: part) else { return }
        let path = part.path(of: name)
        let all = jobs.filter { part.shards.contains($0.tensor.shard) }
        guard let index = part.index?.value else { return try write(self.index(of: all, in: part), path) }
        let added = all.filter { base.tensors[$0.tensor.name] == nil }
        let byteCount = all.reduce(0) { $0 + $1.outputByteCount }
        if index["metadata"]?["total_size"]?.integerValue == byteCount, added.isEmpty, !base.isDecoded {
            return try ModelFolder.copy(FileSystem.join(base.path, path), to: folder.path(of: path), isDurable: isDurable)
        }
        var members = index.objectValue ?? [:]
        var metadata = members["metadata"]?.objectValue ?? [:]
        metadata["total_size"] = .integer(byteCount)
        members["metadata"] = .object(metadata)
        var map = members["weight_map"]?.objectValue ?? [:]
        // Scales go where full weights take the place of codes.
        if base.isDecoded {
            let names = Set(all.map { String($0.tensor.name.dropFirst(part.prefix.count)) })
            map = map.filter { names.contains($0.key) }
        }
        for job in added {
            map[String(job.tensor.name.dropFirst(part.prefix.count))] = .string(FileSystem.lastComponent(base.shards[job.tensor.shard].path))
        }
        members["weight_map"] = .object(map)
        try write(.object(members), path)
    }

    /// What was merged into what, without times and places, so that the same merge gives the same bytes.
    private func receipt(_ result: MergeResult, _ files: OtherFiles) -> JSONValue {
        var members: OrderedDictionary<String, JSONValue> = [
            "schema": .string(ModelFolder.receiptSchema),
            "operation": .string(isTaking ? MergeReceipt.taking : "merge"),
            "base": .string(FileSystem.lastComponent(base.path)),
            "dtype": dtype.map { .string($0.rawValue) } ?? "keep",
            "adapters": .array(zip(model.adapters, entries).map { receipt(of: $0, $1) }),
            "tokenizer": files.tokenizer.json,
            "coverage": [
                "tensors": .integer(jobs.count), "changed": .integer(result.changed.count),
                "withoutEffect": .array(result.withoutEffect.map { .string($0.text) }),
                "added": .array(jobs.filter { base.tensors[$0.tensor.name] == nil }.map { .string($0.tensor.name) }),
            ],
            "configuration": .object(OrderedDictionary(uniqueKeysWithValues: model.changedConfiguration.sorted { $0.key < $1.key })),
            "files": .array(paths(beside: files.copied).map { .string($0) }),
        ]
        if let receipt { members["history"] = .array(receipt.steps) }
        if !result.hashes.isEmpty {
            members["sha256"] = .object(
                OrderedDictionary(uniqueKeysWithValues: jobs.map { ($0.tensor.name, .string(result.hashes[$0.tensor.name] ?? "")) }))
        }
        return .object(members)
    }

    private func receipt(of item: WeightedAdapter, _ entry: MergeReceipt.Entry) -> JSONValue {
        [
            "name": .string(entry.name), "dialect": .string(item.adapter.dialect.rawValue),
            "weight": .real(item.weight), "sha256": entry.sha256.map { .string($0) } ?? .null,
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
