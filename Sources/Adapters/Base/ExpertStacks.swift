internal import Families
internal import OrderedCollections

/// Stacks of experts, as transformers holds them in memory, and the matrices of each expert, as checkpoints do.
enum ExpertStacks {
    /// The stacks among the first names whose matrices are among the second.
    static func joints(
        _ stacks: [String], of model: TensorCorrespondence.Model, in matrices: [String], of other: TensorCorrespondence.Model, _ memory: MemoryNames
    ) -> [TensorCorrespondence.Joint] {
        let candidates = stacks.filter { model.shapes[$0]?.count == 3 && BaseModel.isStackOfExperts(lastComponent(of: $0)) }
        guard !candidates.isEmpty else { return [] }
        let index = Dictionary(grouping: matrices) { memory.normal($0) }.compactMapValues { $0.count == 1 ? $0[0] : nil }
        return candidates.compactMap { stack in
            let parameter = lastComponent(of: stack)
            let path = memory.normal(stack).dropLast(parameter.count)
            guard let shape = model.shapes[stack] else { return nil }
            let found = (ExpertNames.matrices[parameter] ?? []).compactMap { names in joint(stack, shape, path, names, index, other) }
            return found.count == 1 ? found[0] : nil
        }
    }

    private static func joint(
        _ stack: String, _ shape: [Int], _ path: Substring, _ names: [String], _ index: [String: String], _ other: TensorCorrespondence.Model
    ) -> TensorCorrespondence.Joint? {
        var parts: [(name: String, elements: Range<Int>, start: Int, isThere: Bool)] = []
        var start = 0
        for expert in 0..<shape[0] {
            var rows = 0
            for name in names {
                guard let tensor = index["\(path)\(expert).\(name).weight"], let own = other.shapes[tensor], own.count == 2, own[1] == shape[2]
                else { return nil }
                let count = own[0] * own[1]
                parts.append((tensor, start..<start + count, 0, true))
                (rows, start) = (rows + own[0], start + count)
            }
            guard rows == shape[1] else { return nil }
        }
        return parts.isEmpty ? nil : .init(fused: stack, parts: parts)
    }

    private static func lastComponent(of name: String) -> String { name.split(separator: ".").last.map(String.init) ?? name }
}
