#if canImport(Darwin)
    internal import Darwin
#else
    internal import Glibc
#endif

/// How two predictions of the next token differ.
public struct LogitDifference: Sendable, Equatable {
    /// The largest |q − p| of a logit.
    public let largest: Double
    /// KL(softmax p ‖ softmax q) in nats.
    public let divergence: Double
    /// Whether both have their largest logit at the same token, the first where there are several.
    public let agrees: Bool
    /// Whether every logit is a finite number; the other values mean nothing where it is not so.
    public let isFinite: Bool

    public init(largest: Double, divergence: Double, agrees: Bool, isFinite: Bool) {
        self.largest = largest
        self.divergence = divergence
        self.agrees = agrees
        self.isFinite = isFinite
    }
}

extension Compute {
    /// Compares logits row by row.
    ///
    /// - Parameters:
    ///   - p: [rows, vocabulary], what is right.
    ///   - q: likewise, what is held against it.
    public func compareLogits(_ p: FloatView, _ q: FloatView, rows: Int) -> [LogitDifference] {
        precondition(rows > 0 && p.count == q.count && p.count % rows == 0)
        let vocabulary = p.count / rows
        var results = [LogitDifference](repeating: LogitDifference(largest: 0, divergence: 0, agrees: true, isFinite: true), count: rows)
        unsafe results.withUnsafeMutableBufferPointer { results in
            // Sound: each turn writes its own result, and the loop ends before the buffer does.
            nonisolated(unsafe) let target = unsafe results
            pool.run(rows) { row, _ in
                unsafe target[row] = Self.difference(
                    UnsafeBufferPointer(start: p.pointer + row * vocabulary, count: vocabulary),
                    UnsafeBufferPointer(start: q.pointer + row * vocabulary, count: vocabulary))
            }
        }
        return results
    }

    private static func difference(_ p: UnsafeBufferPointer<Float>, _ q: UnsafeBufferPointer<Float>) -> LogitDifference {
        var (largest, isFinite) = (Float(0), true)
        var (bestP, bestQ) = (0, 0)
        for token in p.indices {
            let (a, b) = unsafe (p[token], q[token])
            isFinite = isFinite && a.isFinite && b.isFinite
            largest = max(largest, (b - a).magnitude)
            if unsafe a > p[bestP] { bestP = token }
            if unsafe b > q[bestQ] { bestQ = token }
        }
        guard isFinite, !p.isEmpty else { return LogitDifference(largest: .infinity, divergence: .infinity, agrees: false, isFinite: false) }
        let (topP, topQ) = unsafe (Double(p[bestP]), Double(q[bestQ]))
        // Σ p·(log p − log q), the logarithms of the sums taken out of the sum.
        var (sumP, sumQ, weighted) = (0.0, 0.0, 0.0)
        for token in p.indices {
            let (a, b) = unsafe (Double(p[token]), Double(q[token]))
            let share = exp(a - topP)
            sumP += share
            sumQ += exp(b - topQ)
            weighted += share * (a - b)
        }
        let divergence = weighted / sumP - (topP + log(sumP)) + (topQ + log(sumQ))
        return LogitDifference(largest: Double(largest), divergence: max(0, divergence), agrees: bestP == bestQ, isFinite: true)
    }
}
