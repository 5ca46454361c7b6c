import Kernels
import Testing

/// Counters that iterations of a loop write without a lock, each its own. Sound: an iteration writes only the slot of its
/// index or of its worker.
@safe private final class Counters: Sendable {
    nonisolated(unsafe) let slots: UnsafeMutableBufferPointer<Int>

    init(_ count: Int) {
        unsafe slots = .allocate(capacity: count)
        unsafe slots.initialize(repeating: 0)
    }

    deinit { unsafe slots.deallocate() }

    func increment(_ index: Int) { unsafe slots[index] += 1 }
    var values: [Int] { unsafe Array(slots) }
}

struct ThreadPoolTests {
    @Test(arguments: [1, 2, 3, 5])
    func everyIndexRunsOnce(threads: Int) throws {
        let pool = try #require(ThreadPool(threads: threads))
        #expect(pool.threads == threads)
        for count in [0, 1, 2, 3, threads - 1, threads, threads + 1, 100, 10_000] {
            let indices = Counters(count), workers = Counters(threads), strangers = Counters(threads)
            pool.run(count) { index, worker in
                indices.increment(index)
                if (0..<threads).contains(worker) { workers.increment(worker) } else { strangers.increment(0) }
            }
            #expect(indices.values.allSatisfy { $0 == 1 }, "\(count)")
            // Two iterations with one worker's number at a time would lose an increment.
            #expect(workers.values.reduce(0, +) == count && strangers.values[0] == 0, "\(count)")
        }
    }

    /// Loops so short that a worker may come late to one, or be on its way to sleep: none may be missed or run twice, and
    /// what one loop wrote the next one sees.
    @Test(arguments: [2, 3, 5])
    func noShortLoopIsMissed(threads: Int) throws {
        let pool = try #require(ThreadPool(threads: threads))
        let sums = Counters(7)
        var expected = [Int](repeating: 0, count: 7)
        for turn in 0..<2000 {
            let count = turn % 8
            for index in 0..<count { expected[index] += 1 }
            pool.run(count) { index, _ in sums.increment(index) }
            if sums.values != expected {
                Issue.record("after loop \(turn): \(sums.values) for \(expected)")
                return
            }
        }
    }

    @Test func poolsComeAndGo() {
        let total = Counters(4)
        for _ in 0..<50 { ThreadPool(threads: 4)?.run(4) { index, _ in total.increment(index) } }
        // A pool that never runs a loop must end too.
        for _ in 0..<50 { _ = ThreadPool(threads: 3) }
        #expect(total.values == [50, 50, 50, 50])
    }

    /// A loop may not run inside a loop of the same pool; it may on another.
    @Test func loopsOnPoolsOfTheirOwnMayNest() throws {
        let outer = try #require(ThreadPool(threads: 3))
        let cells = Counters(3 * 40)
        outer.run(3) { index, _ in
            ThreadPool.runOnce(workers: 2) { worker in
                for cell in stride(from: worker, to: 40, by: 2) { cells.increment(index * 40 + cell) }
            }
        }
        #expect(cells.values.allSatisfy { $0 == 1 })
    }

    @Test(arguments: [1, 2, 5, 9])
    func runOnceCallsEachWorkerOnce(workers: Int) {
        let calls = Counters(workers)
        ThreadPool.runOnce(workers: workers) { calls.increment($0) }
        #expect(calls.values.allSatisfy { $0 == 1 })
    }

    @Test func thereIsAProcessor() {
        #expect(ThreadPool.processorCount >= 1)
    }
}

/// A fault of a piece.
private struct Fault: Error, Equatable { let piece: Int }

struct PieceTests {
    /// Some pieces take much longer than others, so that their successors are made before them.
    private func work(_ piece: Int) -> Int { (0..<(piece % 7 == 0 ? 20_000 : 10)).reduce(piece) { ($0 &* 31) ^ $1 } }

    @Test(arguments: [1, 2, 4]) func piecesAreHandedOverInOrder(workers: Int) throws {
        nonisolated(unsafe) var order: [Int] = []
        nonisolated(unsafe) var wrong = 0
        let states = Counters(1)
        try ThreadPool.runInOrder(500, threads: workers) { () -> Int in
            states.increment(0)
            return -1
        } make: { piece, state in
            state = work(piece)
        } hand: { piece, state in
            unsafe order.append(piece)
            if state != work(piece) { unsafe wrong += 1 }
        }
        #expect(unsafe order == Array(0..<500) && wrong == 0)
        #expect((1...(workers == 1 ? 1 : 2 * workers)).contains(states.values[0]))
    }

    @Test(arguments: [1, 2, 4], [true, false]) func theFirstFaultIsReported(workers: Int, inMake: Bool) {
        nonisolated(unsafe) var order: [Int] = []
        #expect(throws: Fault(piece: 41)) {
            try ThreadPool.runInOrder(500, threads: workers) {
            } make: { piece, _ in
                _ = work(piece)
                if inMake, [41, 42, 43, 77].contains(piece) { throw Fault(piece: piece) }
            } hand: { piece, _ in
                if piece == 41 { throw Fault(piece: piece) }
                unsafe order.append(piece)
            }
        }
        #expect(unsafe order == Array(0..<41))
    }

    @Test(arguments: [1, 2, 4]) func everyNumberRunsOnceAndTheFirstFaultIsThrown(workers: Int) throws {
        let counters = Counters(300)
        try ThreadPool.forEach(300, threads: workers) { piece in counters.increment(piece) }
        #expect(counters.values == [Int](repeating: 1, count: 300))
        for round in 0..<20 {
            #expect(throws: Fault(piece: 20 + round)) {
                try ThreadPool.forEach(300, threads: workers) { piece in
                    _ = work(piece)
                    if piece >= 20 + round { throw Fault(piece: piece) }
                }
            }
        }
    }

    @Test func nothingRunsWithoutPieces() throws {
        try ThreadPool.forEach(0, threads: 3) { _ in Issue.record("there is no piece") }
        try ThreadPool.runInOrder(0, threads: 3) {
        } make: { _, _ in
            Issue.record("there is no piece")
        } hand: { _, _ in
        }
    }
}
