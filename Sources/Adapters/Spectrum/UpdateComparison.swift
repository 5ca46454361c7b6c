internal import Kernels
internal import Methods
internal import Safetensors
internal import Tensors

/// Two adapters held against each other by what they do: s·B·A of each module, whatever the layout and the rank.
public struct UpdateComparison: Sendable {
    /// What both adapters have.
    public struct Entry: Sendable {
        /// The module, or what else of it is compared.
        public let name: String
        public let ranks: [Int]
        /// The distance of the second from the first in shares of the first's norm; infinite for what was zero.
        public let relative: Double
    }

    /// What the comparison itself may take for a difference: decompositions in binary64 leave less.
    public static let resolution = 1e-12

    /// In the order of the first adapter.
    public let entries: [Entry]
    /// What only one has, by the names of the module.
    public let onlyInFirst: [String]
    public let onlyInSecond: [String]
    /// What both have in shapes that cannot be held against each other, and the shapes of B·A.
    public let reshaped: [(name: String, first: [Int], second: [Int])]

    /// - Throws: `AdapterError.unsupportedFeature` where one adapter keeps rows in an order that only its base tells.
    public init(_ first: Adapter, _ second: Adapter) throws(AdapterError) {
        let naming = Naming(first, second)
        func keyed(_ adapter: Adapter) -> [String: AdapterModule] {
            Dictionary(adapter.modules.map { (naming.key(of: $0), $0) }, uniquingKeysWith: { first, _ in first })
        }
        let others = keyed(second)
        let known = keyed(first)
        var entries: [Entry] = []
        var reshaped: [(String, [Int], [Int])] = []
        for module in first.modules {
            guard let other = others[naming.key(of: module)] else { continue }
            guard module.isInterleaved == other.isInterleaved else {
                throw AdapterError(
                    .unsupportedFeature, path: first.path, subject: module.label.text,
                    "one of the adapters keeps the rows of the module as ggml orders them, which only the base can undo",
                    cause: .isInterleaved)
            }
            let name = module.label.text
            let (shape, otherShape) = (module.productShape, other.productShape)
            guard shape == otherShape else {
                reshaped.append((name, shape, otherShape))
                continue
            }
            guard (module.updates + other.updates).allSatisfy(\.isSum) else {
                throw AdapterError(
                    .unsupportedFeature, path: first.path, subject: name,
                    "what one of the methods, \(module.methodName) and \(other.methodName), does to a weight depends on the weight; merge both adapters and compare the models"
                )
            }
            do throws(UpdateFault) {
                entries.append(Entry(name: name, ranks: [module.rank, other.rank], relative: try Self.relative(module, other)))
            } catch {
                throw AdapterError(error, path: first.path)
            }
            entries += Self.entry("\(name) (magnitude)", module.magnitude?.values, other.magnitude?.values)
            entries += Self.entry(
                "\(name) (bias)", module.bias?.scaled(rows: [module.scale]), other.bias?.scaled(rows: [other.scale]))
        }
        for replacement in first.replacements {
            guard let other = second.replacements.first(where: { $0.tensor == replacement.tensor }) else { continue }
            entries += Self.entry(
                replacement.tensor, FactorMatrix(replacement.values),
                FactorMatrix(other.values))
        }
        self.entries = entries
        self.reshaped = reshaped
        func only(_ one: Adapter, _ keys: Dictionary<String, AdapterModule>.Keys, _ other: Adapter) -> [String] {
            let names = Set(other.replacements.map(\.tensor))
            return one.modules.filter { !keys.contains(naming.key(of: $0)) }.map(\.label.text)
                + one.replacements.map(\.tensor).filter { !names.contains($0) }
        }
        onlyInFirst = only(first, others.keys, second)
        onlyInSecond = only(second, known.keys, first)
    }

    /// Names by which modules of two layouts are the same.
    private struct Naming {
        let isFlattened: Bool
        let hasComponents: Bool

        init(_ first: Adapter, _ second: Adapter) {
            isFlattened = first.namesAreFlattened || second.namesAreFlattened
            hasComponents = [first, second].allSatisfy { $0.modules.contains { $0.component != nil } }
        }

        func key(of module: AdapterModule) -> String {
            let path = hasComponents ? module.place : module.path
            let name = module.parameter == "weight" ? path.text : path.appending(module.parameter).text
            return isFlattened ? name.replacing(".", with: "_") : name
        }
    }

    private static func relative(_ first: AdapterModule, _ second: AdapterModule) throws(UpdateFault) -> Double {
        // Decompositions leave a little where there is nothing.
        let isSame = zip(first.updates, second.updates).allSatisfy { $0.isSame(as: $1) }
        guard !isSame || first.scale != second.scale else { return 0 }
        var (difference, size) = (0.0, 0.0)
        guard first.isLowRank, second.isLowRank else { return try streamedRelative(first, second) }
        for (a, b) in zip(first.factors, second.factors) {
            let before = LowRankProduct(a, scale: first.scale), after = LowRankProduct(b, scale: -second.scale)
            // Squares of very small or large numbers leave the range: both products are brought to the size of one.
            func largest(_ matrices: [Matrix]) -> Double {
                let most = matrices.flatMap { $0.values.lazy.map(\.magnitude) }.max() ?? 0
                return most > 0 ? most : 1
            }
            let (unitB, unitA) = (1 / largest([before.b, after.b]), 1 / largest([before.a, after.a]))
            func sized(_ product: LowRankProduct) -> LowRankProduct {
                LowRankProduct(b: product.b.scaled(by: unitB), a: product.a.scaled(by: unitA))
            }
            size += sized(before).squaredNorm
            difference += LowRankProduct.sum([sized(before), sized(after)]).squaredNorm
        }
        return share(difference, of: size)
    }

    /// Of updates of which one is no product of two factors, row by row.
    private static func streamedRelative(_ first: AdapterModule, _ second: AdapterModule) throws(UpdateFault) -> Double {
        var (difference, size) = (0.0, 0.0)
        for (before, after) in zip(first.updates, second.updates) {
            let (one, two) = (try before.streamed(scale: first.scale), try after.streamed(scale: second.scale))
            for row in 0..<before.outputs {
                let (left, right) = (one(row), two(row))
                for place in left.indices {
                    let distance = right[place] - left[place]
                    (size, difference) = (size + left[place] * left[place], difference + distance * distance)
                }
            }
        }
        return share(difference, of: size)
    }

    /// Of vectors, of which one adapter may have none.
    private static func entry(_ name: String, _ first: FactorMatrix?, _ second: FactorMatrix?) -> [Entry] {
        guard first != nil || second != nil else { return [] }
        guard let first, let second, first.shape == second.shape, first.dtype.isFloat, second.dtype.isFloat else {
            let isSame = first.flatMap { first in second.map { first.hasSameBytes(as: $0) } } ?? false
            return [Entry(name: name, ranks: [], relative: isSame ? 0 : .infinity)]
        }
        let (before, after) = (first.doubles(), second.doubles())
        let difference = zip(before, after).reduce(0) { $0 + ($1.1 - $1.0) * ($1.1 - $1.0) }
        return [Entry(name: name, ranks: [], relative: share(difference, of: before.reduce(0) { $0 + $1 * $1 }))]
    }

    private static func share(_ difference: Double, of size: Double) -> Double { difference == 0 ? 0 : (difference / size).squareRoot() }
}

extension UpdateMethod {
    /// Rows of scale·ΔW by their numbers.
    ///
    /// - Precondition: it is a sum with W.
    /// - Throws: `UpdateFault.notFinite`.
    fileprivate func streamed(scale: Double) throws(UpdateFault) -> (_ row: Int) -> [Double] {
        precondition(isSum)
        let columns = inputs
        switch form {
        case .lowRank(let factors):
            let (b, a, rank) = (factors.b.doubles(), factors.a.doubles(), factors.rank)
            return { row in
                var values = [Double](repeating: 0, count: columns)
                for k in 0..<rank { for column in 0..<columns { values[column] += scale * b[row * rank + k] * a[k * columns + column] } }
                return values
            }
        case .evaluated(let update):
            let prepared = try update.prepared(scale: scale)
            return { row in
                var values = [Double](repeating: 0, count: columns)
                prepared.apply(to: &values, row..<row + 1)
                return values
            }
        }
    }
}

extension AdapterModule {
    /// The shape of B·A, with the number of experts in front where there are several.
    fileprivate var productShape: [Int] { (updates.count > 1 ? [updates.count] : []) + [outputs, inputs] }
}
