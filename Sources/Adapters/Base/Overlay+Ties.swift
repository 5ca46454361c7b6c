internal import JSON
internal import Methods
internal import OrderedCollections
internal import Safetensors
internal import Tensors
internal import Weights

/// Matrices that the base has once under several names, and that adapters may make differ.
extension Overlay {
    /// Gives the members of ties tensors of their own where adapters make them differ.
    mutating func settleTies() throws(MergeError) {
        for tie in base.ties where tie.isOfBiases { spreadReplacement(of: tie) }
        for tie in base.ties where tie.members.contains(where: isTouched) {
            if try areMadeToDiffer(tie) { untiedTowers.insert(tie.tower) }
        }
        // One field of the configuration ties all or none.
        for tie in base.ties {
            let absent = tie.members.filter { !isStored($0) }
            if untiedTowers.contains(tie.tower) {
                try separate(tie, absent: absent)
            } else {
                for name in absent {
                    shared[name] = tie.source
                    following.formUnion((updates[name] ?? []).map(\.module))
                    (updates[name], replaced[name], rows[name]) = (nil, nil, nil)
                }
            }
        }
    }

    private func isTouched(_ name: String) -> Bool { updates[name] != nil || replaced[name] != nil || rows[name] != nil }
    private func isStored(_ name: String) -> Bool { base.files.tensors[name] != nil }

    /// Gives whole values of one name of a bias to its other names. Libraries have one parameter for them, and train and save it once; with the
    /// base's values the other name, which the head computes with, would undo the training.
    private mutating func spreadReplacement(of tie: BaseModel.Tie) {
        let members = tie.members.filter { $0 == tie.source || !isStored($0) || base.holdsAlike($0, tie.source) }
        guard let brought = members.compactMap({ replaced[$0] }).first else { return }
        for name in members where !isTouched(name) { replaced[name] = brought }
    }

    private mutating func areMadeToDiffer(_ tie: BaseModel.Tie) throws(MergeError) -> Bool {
        let others = tie.members.dropFirst()
        let own = others.filter { isStored($0) && !base.holdsAlike($0, tie.source) }
        if let name = own.first, tie.isStated {
            remarks.append("config.json calls the embedding and the head one matrix, and the files hold two: \(tie.source) and \(name)")
            if !base.scalesTiedHead { untiedTowers.insert(tie.tower) }
        }
        var areOne = true
        for name in others where !own.contains(name) {
            // Of a tied model PEFT trains tokens of the embedding for the head as well.
            if rows[tie.source] != nil, !isTouched(name) { (rows[name], replaced[name]) = (rows[tie.source], replaced[tie.source]) }
            if try differ(name, tie.source) { areOne = false }
            if isStored(name) { shared[name] = tie.source }
        }
        return !areOne
    }

    private mutating func separate(_ tie: BaseModel.Tie, absent: [String]) throws(MergeError) {
        for name in tie.members { shared[name] = nil }
        guard !absent.isEmpty else { return }
        let path = tie.members.compactMap { updates[$0]?.first?.adapterPath ?? replaced[$0]?.adapter }.first ?? base.path
        func refuse(_ why: String) -> MergeError { MergeError(.tiedWeights, path: path, tensor: tie.source, why) }
        guard base.configuration != nil else {
            throw refuse("the embedding and the head are one matrix, and without a config.json beside the weights they cannot be separated")
        }
        guard !base.tiesLayers else {
            throw refuse(
                "the embedding and the head are one matrix, and what would make them two in the configuration of this family also unties its shared layers, which the files hold once"
            )
        }
        guard !base.scalesTiedHead else {
            throw refuse(
                "the embedding and the head are one matrix, and a model of this family scales what goes into the head only where they are; no configuration says that of two matrices"
            )
        }
        for name in absent { separated[name] = tie.source }
        guard !tie.isOfBiases else { return }
        let count = absent.count == 1 ? "two" : "\(absent.count + 1)"
        remarks.append("the embedding and the head were one matrix and are \(count) now: \(([tie.source] + absent).joined(separator: " and "))")
    }

    /// Whether adapters make two tensors that were one differ.
    private func differ(_ name: String, _ source: String) throws(MergeError) -> Bool {
        guard areAlike(replaced[name]?.values, replaced[source]?.values), areAlike(effective(name), effective(source)) else {
            guard rows[source] == nil || rows[name] != nil else {
                throw MergeError(
                    .unsupportedCombination, path: replaced[name]?.adapter ?? updates[name]?.first?.adapterPath ?? base.path, tensor: source,
                    "rows that the embedding and the head share were trained whole, and an adapter makes the two differ")
            }
            return true
        }
        let (mine, theirs) = (rows[name] ?? [:], rows[source] ?? [:])
        return mine.count != theirs.count
            || mine.contains { number, row in !(theirs[number].map { Self.row(row).hasSameBytes(as: Self.row($0)) } ?? false) }
    }

    private static func row(_ source: AdaptedModel.RowSource) -> FactorMatrix {
        FactorMatrix(source.values).rows(from: source.row, count: 1)
    }

    private func areAlike(_ a: StoredWeight?, _ b: StoredWeight?) -> Bool {
        guard let a, let b else { return a == nil && b == nil }
        return FactorMatrix(a).hasSameBytes(as: FactorMatrix(b))
    }

    /// The updates of a tensor that change something.
    private func effective(_ name: String) -> [TensorUpdate] {
        (updates[name] ?? []).filter(\.isEffective)
    }

    private func areAlike(_ a: [TensorUpdate], _ b: [TensorUpdate]) -> Bool {
        a.count == b.count
            && zip(a, b).allSatisfy { a, b in
                a.rows == b.rows && a.scale == b.scale && a.magnitude == nil && b.magnitude == nil
                    && a.firstRow == b.firstRow && a.update.isSame(as: b.update)
            }
    }
}

extension BaseModel {
    /// Whether the files hold the same values under two names.
    func holdsAlike(_ a: String, _ b: String) -> Bool {
        guard let a = files.tensors[a], let b = files.tensors[b] else { return false }
        return FactorMatrix(a).hasSameBytes(as: FactorMatrix(b))
    }
}

extension AdaptedModel {
    /// Whether the files of the model may leave out a tensor because it is the same as another one that they hold.
    ///
    /// - Returns: the other's name.
    public func copied(by name: String) -> String? {
        if let other = shared[name] { return other }
        guard separated[name] == nil, let tie = base.tie(of: name), name != tie.source else { return nil }
        let isTouched = tensors.contains { tie.members.contains($0.name) && (!$0.isOfBase || !$0.updates.isEmpty || !$0.rows.isEmpty) }
        return !isTouched && base.holdsAlike(name, tie.source) ? tie.source : nil
    }
}
