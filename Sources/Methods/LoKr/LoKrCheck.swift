internal import Kernels

extension LoKr {
    public func check(scale: Double) -> any UpdateCheck { LoKrCheck(first: .init(first), second: .init(second), scale: scale) }
}

/// The update of a LoKr as the verifier computes it: column by column, and not matrix by matrix.
private struct LoKrCheck: UpdateCheck {
    let first: Operand
    let second: Operand
    let scale: Double

    struct Operand: Sendable {
        let rows: Int
        let columns: Int
        let rank: Int
        /// A product's; of a whole matrix its elements.
        let product: VerificationUpdate?
        let whole: [Double]

        init(_ factor: LoKr.Factor) {
            (rows, columns, rank) = (factor.rows, factor.columns, factor.rank ?? 0)
            switch factor {
            case .whole(let matrix): (product, whole) = (nil, matrix.doubles())
            case .product(let factors): (product, whole) = (factors.verified(), [])
            }
        }

        /// A row, and what no element of a sum in it is larger than.
        func row(_ number: Int) -> (values: [Double], sizes: [Double]) {
            guard let product else {
                let values = Array(whole[number * columns..<number * columns + columns])
                return (values, values.map(\.magnitude))
            }
            return (product.row(number), (0..<columns).map { product.size(row: number, column: $0) })
        }
    }

    func apply(to row: inout [Double], number: Int, errors: inout [Double]) {
        let (block, inner) = number.quotientAndRemainder(dividingBy: second.rows)
        let (outer, nested) = (first.row(block), second.row(inner))
        let error = scale.magnitude * Double(first.rank + second.rank + 8) * 0x1p-24 * 1.01
        for column in 0..<first.columns * second.columns {
            let (j, p) = column.quotientAndRemainder(dividingBy: second.columns)
            row[column] += scale * (outer.values[j] * nested.values[p])
            errors[column] += error * outer.sizes[j] * nested.sizes[p]
        }
    }
}
