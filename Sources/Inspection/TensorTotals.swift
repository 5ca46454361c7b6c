internal import Weights

/// How many tensors, elements and bytes there are: all in all, of each element type, and of each role.
package struct TensorTotals {
    package struct Total {
        let name: String
        var tensors = 0
        var elements = 0
        var bytes = 0

        fileprivate mutating func add(_ other: Total) {
            tensors += other.tensors
            elements += other.elements
            bytes += other.bytes
        }
    }

    private(set) var all = Total(name: "all")
    /// By element type, the largest first.
    private(set) var types: [Total] = []
    /// By role, the largest first.
    private(set) var roles: [Total] = []

    package init(_ groups: [FoldedNames<TensorForm>.Group]) {
        for group in groups {
            let (type, elements) = (group.attributes.type, group.attributes.elementCount * group.count)
            let total = Total(name: type.name, tensors: group.count, elements: elements, bytes: type.byteCount(of: elements))
            all.add(total)
            Self.add(total, named: type.name, to: &types)
            Self.add(total, named: group.role.rawValue, to: &roles)
        }
        types.sort { ($1.bytes, $0.name) < ($0.bytes, $1.name) }
        roles.sort { ($1.bytes, $0.name) < ($0.bytes, $1.name) }
    }

    private static func add(_ total: Total, named name: String, to totals: inout [Total]) {
        let index = totals.firstIndex { $0.name == name } ?? totals.endIndex
        if index == totals.endIndex { totals.append(Total(name: name)) }
        totals[index].add(total)
    }
}

extension FoldedNames<TensorForm>.Group {
    package var role: TensorRole { TensorRole(name: pattern.name { _ in "0" }) }
}
