import Kernels
import TestSupport
import Testing

/// The factorisations of low-rank algebra and the products that they stand on.
struct MatrixTests {
    private func random(_ rows: Int, _ columns: Int, seed: UInt64) -> Matrix {
        var generator = SeededGenerator(seed: seed)
        return Matrix(rows: rows, columns: columns, values: (0..<rows * columns).map { _ in generator.normal() })
    }

    private func distance(_ a: Matrix, _ b: Matrix) -> Double {
        zip(a.values, b.values).reduce(0) { max($0, abs($1.0 - $1.1)) }
    }

    private func unit(_ size: Int) -> Matrix {
        var matrix = Matrix(zeros: size, size)
        for place in 0..<size { matrix[place, place] = 1 }
        return matrix
    }

    @Test(arguments: MergePath.allCases.filter(\.isSupported), [(1, 1, 8), (7, 33, 16), (64, 129, 24), (5, 700, 8), (3, 0, 8)])
    func productsHaveTheBitsOfTheDefinition(path: MergePath, shape: (rows: Int, columns: Int, width: Int)) {
        var generator = SeededGenerator(seed: 3)
        func values(_ count: Int) -> [Double] { (0..<count).map { _ in generator.normal() } }
        let (rows, columns, width) = shape
        let (left, right) = (values(rows * columns), values(columns * width))
        var result = [Double](repeating: 0, count: rows * width)
        PanelKernel.addProduct(left.span, rows: rows, columns: columns, right.span, width: width, to: &result, path: path)
        #expect(result == PanelKernel.referenceProduct(left, rows: rows, columns: columns, right, width: width))

        let narrow = values(rows * width)
        var transposed = [Double](repeating: 0, count: columns * width)
        PanelKernel.addTransposedProduct(left.span, rows: rows, columns: columns, narrow.span, width: width, to: &transposed, path: path)
        let mirrored = Matrix(rows: rows, columns: columns, values: left).transposed.values
        #expect(transposed == PanelKernel.referenceProduct(mirrored, rows: columns, columns: rows, narrow, width: width))
    }

    @Test(arguments: [(1, 1), (8, 3), (40, 40), (200, 17)])
    func qrIsOrthonormalAndGivesTheMatrixBack(shape: (rows: Int, columns: Int)) {
        let matrix = random(shape.rows, shape.columns, seed: UInt64(shape.rows))
        let (q, r) = matrix.qr()
        #expect(distance(q.transposed * q, unit(shape.columns)) < 1e-13)
        #expect(distance(q * r, matrix) < 1e-12)
        for row in 0..<shape.columns { for column in 0..<row { #expect(r[row, column] == 0) } }
    }

    @Test func qrOfDependentColumnsIsStillOrthonormal() {
        let thin = random(30, 2, seed: 5)
        let matrix = thin.appending(columns: thin.scaled(by: 2)).appending(columns: Matrix(zeros: 30, 2))
        let (q, r) = matrix.qr()
        #expect(distance(q.transposed * q, unit(6)) < 1e-13)
        #expect(distance(q * r, matrix) < 1e-13)
    }

    @Test func qrAndSVDBearNumbersNearTheEndsOfTheRange() {
        for scale in [1e-200, 1e200] {
            let matrix = random(12, 4, seed: 9).scaled(by: scale)
            let (q, r) = matrix.qr()
            #expect(distance((q * r).scaled(by: 1 / scale), matrix.scaled(by: 1 / scale)) < 1e-13)
        }
        #expect(Matrix(zeros: 5, 3).svd().s == [0, 0, 0])
    }

    @Test(arguments: [(3, 3), (20, 6), (48, 48)])
    func svdGivesTheMatrixBackInDescendingOrder(shape: (rows: Int, columns: Int)) {
        let matrix = random(shape.rows, shape.columns, seed: UInt64(shape.columns))
        let (u, s, v) = matrix.svd()
        #expect(zip(s, s.dropFirst()).allSatisfy { $0 >= $1 } && s.allSatisfy { $0 >= 0 })
        #expect(distance(v.transposed * v, unit(shape.columns)) < 1e-12)
        #expect(distance(u.transposed * u, unit(shape.columns)) < 1e-12)
        #expect(distance(u.scaled(columns: s) * v.transposed, matrix) < 1e-12)
    }

    @Test func svdFindsValuesThatAreKnown() {
        let (u, v) = (random(30, 5, seed: 1).qr().q, random(30, 5, seed: 2).qr().q)
        let known = [1e3, 10, 1, 1e-6, 1e-12]
        // Of a product, small values are as exact as the product is.
        let found = (u.scaled(columns: known) * v.transposed).svd().s
        for (value, wanted) in zip(found, known) { #expect(abs(value - wanted) < 1e-12 * known[0]) }
        var diagonal = Matrix(zeros: 5, 5)
        for (place, value) in known.enumerated() { diagonal[place, place] = value }
        #expect(diagonal.svd().s == known)
    }
}
