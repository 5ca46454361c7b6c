internal import Methods
internal import OrderedCollections
internal import Safetensors
internal import Weights

/// Adapters of libraries that have one module for all names of a tied matrix. In PEFT each has its own, and an update of one is none of
/// the others.
extension BaseModel {
    /// The adapter with an update for each name of a tied matrix.
    func spreadingTies(_ adapter: Adapter) -> Adapter {
        guard adapter.dialect == .mlx else { return adapter }
        var added: [AdapterModule] = []
        for tie in ties {
            guard let embedding = module(of: adapter, for: tie.source), embedding.kind == .embedding else { continue }
            for member in absentMembers(of: tie) where module(of: adapter, for: member) == nil {
                added.append(embedding.sharing(ModulePath(member.dropLast(".weight".count)), isHead: member == tie.head))
            }
        }
        return added.isEmpty ? adapter : adapter.with(modules: adapter.modules + added)
    }

    /// The adapter with one update for all names of a tied matrix.
    ///
    /// - Throws: `AdapterError.unsupportedFeature` where they have different ones.
    func gatheringTies(_ adapter: Adapter, path: String, layout: String) throws(AdapterError) -> Adapter {
        var modules = adapter.modules
        for tie in ties {
            let absent = absentMembers(of: tie)
            let embedding = module(of: adapter, for: tie.source)
            let others = absent.map { (member: $0, module: module(of: adapter, for: $0)) }
            guard !absent.isEmpty, let some = embedding ?? others.lazy.compactMap(\.module).first else { continue }
            let areOne = others.allSatisfy { member, module in
                guard let module, let embedding, embedding.kind == .embedding else { return false }
                return module.hasSameUpdate(as: embedding.sharing(module.path, isHead: member == tie.head))
            }
            guard areOne else {
                throw AdapterError(
                    .unsupportedFeature, path: path, subject: some.label.text,
                    "\(layout) has one module for the embedding and the head of this model, and the adapter makes the two differ; merge it instead")
            }
            let names = Set(others.compactMap { $0.module?.parameterName })
            modules.removeAll { names.contains($0.parameterName) }
        }
        return modules.count == adapter.modules.count ? adapter : adapter.with(modules: modules)
    }

    private func absentMembers(of tie: Tie) -> [String] { tie.members.filter { files.tensors[$0] == nil } }

    private func module(of adapter: Adapter, for tensor: String) -> AdapterModule? {
        adapter.modules.first { $0.kind != .experts && resolve($0.parameterName) == tensor }
    }
}

extension AdapterModule {
    /// The update of an embedding as that of another module with the same matrix.
    func sharing(_ other: ModulePath?, isHead: Bool) -> AdapterModule {
        let updates: [any UpdateMethod] = isHead ? updates.map { $0.transposed } : updates
        return AdapterModule(path: other ?? path, kind: isHead ? .linear : .embedding, updates: updates, alpha: alpha, scale: scale)
    }

    fileprivate func hasSameUpdate(as other: AdapterModule) -> Bool {
        scale == other.scale && magnitude == nil && other.magnitude == nil && bias == nil && updates.count == other.updates.count
            && zip(updates, other.updates).allSatisfy { $0.isSame(as: $1) }
    }
}
