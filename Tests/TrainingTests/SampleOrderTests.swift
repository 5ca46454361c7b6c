import TestSupport
import Testing

@testable import Training

/// The order in which windows are shown.
struct SampleOrderTests {
    private func order(_ windows: Int, seed: UInt64, _ samples: Range<Int>) -> [Int] {
        var order = SampleOrder(windows: windows, seed: seed)
        return samples.map { order.window(ofSample: $0) }
    }

    @Test(arguments: [1, 2, 7, 64], [0, 5, .max] as [UInt64]) func everyEpochShowsEveryWindowOnce(windows: Int, seed: UInt64) {
        for epoch in 0..<4 { #expect(order(windows, seed: seed, epoch * windows..<(epoch + 1) * windows).sorted() == Array(0..<windows)) }
    }

    @Test(arguments: [1, 2, 7, 64]) func theSameSeedGivesTheSameOrder(windows: Int) {
        #expect(order(windows, seed: 5, 0..<3 * windows) == order(windows, seed: 5, 0..<3 * windows))
    }

    /// Two of 64! orders that are the same are no accident.
    @Test func everySeedAndEveryEpochHasAnOrderOfItsOwn() {
        var seen: Set<[Int]> = []
        for seed in (0..<20).map(UInt64.init) + [.max, .max - 1] {
            for epoch in 0..<5 { #expect(seen.insert(order(64, seed: seed, epoch * 64..<(epoch + 1) * 64)).inserted, "seed \(seed), epoch \(epoch)") }
        }
    }

    /// Each window is as often in each place as any other; a shuffle that exchanges with any place and not with one that is left is
    /// not so.
    @Test func everyWindowIsAsOftenInEveryPlace() {
        let (windows, epochs) = (6, 6000)
        let all = order(windows, seed: 5, 0..<windows * epochs)
        var counts = [Int](repeating: 0, count: windows * windows)
        for (sample, window) in all.enumerated() { counts[sample % windows * windows + window] += 1 }
        // Five standard deviations of a binomial distribution about 1000.
        #expect(counts.allSatisfy { abs($0 - epochs / windows) < 145 }, "\(counts)")
    }

    /// A count of samples is all that a run needs to go on where it was, also in the middle of an epoch.
    @Test(arguments: [1, 7, 64], [1, .random(in: 0 ... .max)] as [UInt64]) func aRunThatGoesOnFindsItsPlace(windows: Int, seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        let whole = order(windows, seed: seed, 0..<5 * windows)
        for _ in 0..<10 {
            let done = Int.random(in: 0..<5 * windows, using: &random)
            #expect(order(windows, seed: seed, done..<5 * windows) == Array(whole[done...]), "after \(done) samples, seed \(seed)")
        }
    }

    /// The samples of a run may be asked for in any order.
    @Test func lookingBackChangesNothing() {
        let whole = order(9, seed: 3, 0..<27)
        var order = SampleOrder(windows: 9, seed: 3)
        for sample in [20, 3, 26, 0, 11, 3, 20] { #expect(order.window(ofSample: sample) == whole[sample]) }
    }
}
