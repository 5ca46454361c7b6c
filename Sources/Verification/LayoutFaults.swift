internal import Adapters
internal import Kernels
internal import OrderedCollections
internal import Safetensors
internal import Synchronization
internal import Tensors
internal import Weights

/// What verification says of two models whose files are in two layouts.
public enum LayoutFaults {
    /// `rows 16 to 31`, for elements of a tensor.
    public static func rows(_ elements: Range<Int>, of shape: [Int]) -> String {
        let width = max(1, shape.last ?? 1)
        guard shape.count > 1 else { return "elements \(elements.lowerBound) to \(elements.upperBound - 1)" }
        return "rows \(elements.lowerBound / width) to \(elements.upperBound / width - 1)"
    }

    /// The tensors of both models whose counterparts may be among the other's of these, under names that are not known.
    static func strangers(_ model: AdaptedModel, _ merged: ModelWeights, _ correspondence: TensorCorrespondence) -> Set<String> {
        guard correspondence.isOfTwoLayouts else { return [] }
        let counterparts = correspondence.counterparts
        let own = model.tensors.map(\.name).filter {
            correspondence.renamed[$0] == nil && correspondence.pieces[$0] == nil && merged.tensors[$0] == nil && !correspondence.knows($0)
        }
        let names = Set(model.tensors.map(\.name))
        let others = merged.tensors.keys.filter { !counterparts.contains($0) && !names.contains($0) && !correspondence.knows($0) }
        return own.isEmpty || others.isEmpty ? [] : Set(own).union(others)
    }

    static func doubt(_ name: String, of other: String) -> Fault {
        Fault(.unknownName, name, "what \(other), whose layout is another, calls this tensor is not known here, so it was not compared")
    }

    /// How tensors were matched.
    static func remarks(_ correspondence: TensorCorrespondence) -> [String] {
        var remarks: [String] = []
        let renamed = correspondence.renamed
        if let (own, other) = renamed.elements.first {
            remarks.append(
                "\(renamed.count) tensor\(renamed.count == 1 ? " has another name" : "s have other names") than in the base, as \(other) for \(own); they were matched by name"
            )
        }
        if let piece = correspondence.pieces.values.first?.first {
            let count = correspondence.pieces.count
            remarks.append(
                "\(count) tensor\(count == 1 ? " of the base lies" : "s of the base lie") otherwise in the merged model, whose layout is another, as \(piece.first) with \(piece.second); they were matched by rows"
            )
        }
        return remarks
    }

    /// Of the works that are wrong, those that hold what another part of the same matrix is: the parts were put together in a wrong order.
    ///
    /// - Parameter isWrong: of each work, by its number.
    static func misplaced(_ works: [MergeWork], _ isWrong: [Bool], options: MergeVerifier.Options) throws -> [Int: Fault] {
        let wrong = works.indices.filter { isWrong[$0] && works[$0].isOfOtherLayout }
        guard !wrong.isEmpty else { return [:] }
        // Parts of one matrix of either model.
        let siblings = Dictionary(grouping: works.indices) { works[$0].name }
        let neighbors = Dictionary(grouping: works.indices) { works[$0].merged.name }
        let found = Mutex<[Int: Fault]>([:])
        try ThreadPool.forEach(wrong.count, threads: options.threads) { index in
            guard !options.isCancelled() else { throw MergeError(.interrupted, path: "verify", "the verification was interrupted") }
            let (number, work) = (wrong[index], works[wrong[index]])
            let others = ((siblings[work.name] ?? []) + (neighbors[work.merged.name] ?? [])).map { works[$0] }
            let own = try work.distance(to: work)
            for other in others where other.elementCount == work.elementCount && (other.name, other.rows) != (work.name, work.rows) {
                guard try work.distance(to: other) < min(0.02, 0.1 * own) else { continue }
                found.withLock { $0[number] = work.misplacement(by: other) }
                break
            }
        }
        return found.withLock { $0 }
    }
}

extension MergeWork {
    /// Elements that tell what a part is.
    private static let fewElements = 1 << 14

    /// As many of the first rows as tell what it is.
    private var beginning: MergeWork {
        let count = min(rows.count, max(1, Self.fewElements / max(columns, 1)))
        return MergeWork(
            name: name, source: source, merged: merged, updates: updates, module: module, rows: rows.lowerBound..<rows.lowerBound + count,
            columns: columns, replacement: replacement, isReplaced: isReplaced, shift: shift, isOfOtherLayout: isOfOtherLayout)
    }

    /// How far some merged elements are from what another work's should be, in shares of the latter.
    fileprivate func distance(to other: MergeWork) throws -> Double {
        guard [source, merged, other.source].allSatisfy({ $0.dtype.isFloat }) else { return .infinity }
        var index = rows.lowerBound * columns + shift
        var (rest, whole) = (0.0, 0.0)
        try other.beginning.forEachExpectedRow { _, elements in
            for wanted in elements {
                let difference = StoredElement.value(merged, index) - wanted
                (rest, whole) = (rest + difference * difference, whole + wanted * wanted)
                index += 1
            }
        }
        return whole > 0 ? (rest / whole).squareRoot() : .infinity
    }

    fileprivate func misplacement(by other: MergeWork) -> Fault {
        Fault(
            .swappedModules, label,
            "they hold what belongs to \(other.rowsOfBase): the parts of the matrix are in another order")
    }

    private var elements: Range<Int> { rows.lowerBound * columns..<rows.upperBound * columns }

    /// `rows 16 to 31 of NAME`, in the base.
    private var rowsOfBase: String { "\(LayoutFaults.rows(elements, of: source.shape)) of the base's \(name)" }

    /// The fault with the rows that it is of, where base and merged model have them in different tensors.
    func placing(_ fault: Fault) -> Fault {
        guard isOfOtherLayout else { return fault }
        let theirs = elements.lowerBound + shift..<elements.upperBound + shift
        return Fault(
            fault.code, fault.module,
            "\(LayoutFaults.rows(theirs, of: merged.shape)) of \(merged.name), which are \(rowsOfBase): \(fault.message)")
    }
}
