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
    func manyShortLoops(threads: Int) throws {
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

struct OrderedTurnTests {
    @Test(arguments: [1, 2, 4])
    func piecesAreHandedOverInOrder(workers: Int) {
        let turn = OrderedTurn()
        nonisolated(unsafe) var order: [Int] = []
        ThreadPool.runOnce(workers: workers) { worker in
            for number in stride(from: worker, to: 200, by: workers) where turn.wait(for: number) {
                unsafe order.append(number)
                turn.advance()
            }
        }
        #expect(unsafe order == Array(0..<200))
    }

    /// One worker closes the line while the others wait for a piece that never comes.
    @Test func closingSendsEverybodyHome() {
        let turn = OrderedTurn()
        let dropped = Counters(4)
        ThreadPool.runOnce(workers: 4) { worker in
            if worker == 0 {
                guard turn.wait(for: 0) else { return }
                turn.close()
            } else if !turn.wait(for: worker) {
                dropped.increment(worker)
            }
        }
        #expect(dropped.values == [0, 1, 1, 1])
        #expect(!turn.wait(for: 0), "a closed line stays closed, even for the piece whose turn it is")
    }
}
