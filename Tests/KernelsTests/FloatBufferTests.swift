import FileIO
import Kernels
import Tensors
import TestSupport
import Testing

struct FloatBufferTests {
    @Test func buffersBeginAtACacheLineAndAtZero() {
        for count in [0, 1, 15, 16, 17, 1000] {
            let view = FloatBuffer(count: count).view
            #expect(view.count == count && view.array == .init(repeating: 0, count: count))
            let address = view.withBytes { unsafe $0.withUnsafeBytes { UInt(bitPattern: $0.baseAddress) } }
            #expect(address % 64 == 0)
        }
    }

    @Test func viewsShareTheirStorage() {
        let whole = FloatView([0, 1, 2, 3, 4, 5, 6, 7])
        let part = whole[2..<7], inner = part[1..<3]
        #expect(inner.array == [3, 4])
        inner[0] = 30
        part[4] = 60
        #expect(whole.array == [0, 1, 2, 30, 4, 5, 60, 7] && whole[3] == 30)
        whole[0..<2].fill(9)
        whole[6..<8].copy(from: whole[3..<5])
        #expect(whole.array == [9, 9, 2, 30, 4, 5, 30, 4])
        #expect(whole[4..<4].array.isEmpty)
    }

    @Test func numbersSurviveTheirBytes() {
        let values: [Float] = [1.5, -0.0, .infinity, .leastNonzeroMagnitude, Float(bitPattern: 0x7FC1_2345)]
        let source = FloatView(values), target = FloatView.zeros(values.count)
        source.withBytes { target.copy(fromBytes: $0) }
        expectBits(target.array, values)
        FloatView.zeros(0).withBytes { FloatView.zeros(0).copy(fromBytes: $0) }
    }

    @Test func anArenaGivesEachViewItsOwnCacheLines() {
        let counts = [3, 0, 16, 17, 1]
        let views = FloatArena(counts: counts).views
        #expect(views.map(\.count) == counts)
        for (index, view) in views.enumerated() { view.fill(Float(index + 1)) }
        for (index, view) in views.enumerated() {
            #expect(view.array == .init(repeating: Float(index + 1), count: counts[index]))
            let address = view.withBytes { unsafe $0.withUnsafeBytes { UInt(bitPattern: $0.baseAddress) } }
            #expect(address % 64 == 0)
        }
    }
}

struct WeightMatrixTests {
    @Test(arguments: [DType.f32, .bf16, .f16])
    func elementsAndTheFirstThatIsNotFinite(dtype: DType) throws {
        var values = (0..<7 * 11).map { Float($0) - 20 }
        let finite = try StoredMatrix(values, rows: 7, columns: 11, dtype: dtype)
        #expect(finite.matrix.rows == 7 && finite.matrix.columns == 11 && finite.matrix.dtype == dtype && finite.matrix.name == "weight")
        expectBits(finite.matrix.floats(), values)
        #expect(finite.matrix.firstNonFinite() == nil)
        values[5 * 11 + 3] = -.infinity
        values[6 * 11] = .infinity
        let position = try StoredMatrix(values, rows: 7, columns: 11, dtype: dtype).matrix.firstNonFinite()
        #expect(position?.row == 5 && position?.column == 3)
    }

    @Test func onlyVectorsAndMatricesOfFloatsAreTaken() throws {
        let folder = try TemporaryFolder()
        let file = try AtomicFile(path: folder.path("weights"), replacing: false)
        try file.write([UInt8](repeating: 0, count: 64))
        try file.publish(durable: false)
        let mapped = try MappedFile(path: folder.path("weights"))
        func matrix(_ dtype: DType, _ shape: [Int]) -> WeightMatrix? {
            WeightMatrix(
                file: mapped,
                info: TensorInfo(name: "x", dtype: dtype, shape: shape, byteRange: 0..<shape.reduce(dtype.bitWidth / 8, *)))
        }
        let vector = matrix(.f16, [6])
        #expect(vector?.rows == 1 && vector?.columns == 6 && vector?.floats() == [0, 0, 0, 0, 0, 0])
        #expect(matrix(.f32, []) == nil && matrix(.f32, [1, 2, 3]) == nil)
        #expect(matrix(.f64, [2]) == nil && matrix(.i32, [2, 2]) == nil)
        #expect(matrix(.bf16, [0])?.firstNonFinite() == nil)
    }
}
