internal import Kernels

extension LoHa {
    public func check(scale: Double) -> any UpdateCheck { LoHaCheck(first: first.verified(), second: second.verified(), scale: scale) }
}

/// The update of a LoHa as the verifier computes it.
private struct LoHaCheck: UpdateCheck {
    let first: VerificationUpdate
    let second: VerificationUpdate
    let scale: Double

    func apply(to row: inout [Double], number: Int, errors: inout [Double]) {
        let (one, two) = (first.row(number), second.row(number))
        for column in 0..<first.columns {
            row[column] += scale * (one[column] * two[column])
            // Each product is off by what its sum is off by; the product of the two and its scale are rounded, too.
            let (size, otherSize) = (first.size(row: number, column: column), second.size(row: number, column: column))
            errors[column] += scale.magnitude * size * otherSize * Double(first.rank + second.rank + 8) * 0x1p-24 * 1.01
        }
    }
}
