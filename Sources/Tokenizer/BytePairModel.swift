/// Byte-pair encoding of pieces: their bytes become symbols, and the pair of neighbours with the lowest rank is merged
/// (of several, the leftmost) until no pair merges.
struct BytePairModel: Sendable {
    var vocabulary: Vocabulary
    /// The token of each byte; -1 for a byte that the vocabulary does not have, which is dropped.
    let symbolOfByte: [Int32]
    let merges: MergeTable
    /// Whether a piece that is itself a token becomes that token without regard to the merges.
    let ignoresMerges: Bool

    /// Pieces of at most this many bytes are remembered.
    private static let longestRemembered = 48
    /// Pieces of at most this many symbols are merged by looking at all pairs each time: quadratic, and faster up to here.
    private static let longestScanned = 96

    /// Appends the tokens of `text[range]`, which is not empty.
    func encode(_ text: Span<UInt8>, _ range: Range<Int>, _ state: inout EncoderState, _ ids: inout [Int32]) {
        if range.count == 1 {
            let symbol = symbolOfByte[Int(text[range.lowerBound])]
            if symbol >= 0 { ids.append(symbol) }
            return
        }
        guard range.count <= Self.longestRemembered else {
            encodeAnew(text, range, &state, &ids)
            return
        }
        let hash = state.cache.hash(text, range)
        if state.cache.appendTokens(of: text, range, hash: hash, to: &ids) { return }
        let start = ids.count
        encodeAnew(text, range, &state, &ids)
        state.cache.remember(text, range, hash: hash, ids[start...])
    }

    private func encodeAnew(_ text: Span<UInt8>, _ range: Range<Int>, _ state: inout EncoderState, _ ids: inout [Int32]) {
        if ignoresMerges, let id = vocabulary.id(ofBytes: text, range) {
            ids.append(id)
            return
        }
        state.symbols.removeAll(keepingCapacity: true)
        for position in range {
            let symbol = symbolOfByte[Int(text[position])]
            if symbol >= 0 { state.symbols.append(symbol) }
        }
        if state.symbols.count <= Self.longestScanned {
            mergeByScanning(&state)
        } else {
            mergeByHeap(&state)
        }
        ids.append(contentsOf: state.symbols)
    }

    private func mergeByScanning(_ state: inout EncoderState) {
        guard state.symbols.count > 1 else { return }
        // pairs[i] is how the symbols i and i + 1 merge.
        state.pairs.removeAll(keepingCapacity: true)
        for index in 1..<state.symbols.count { state.pairs.append(merges.merge(state.symbols[index - 1], state.symbols[index])) }
        while true {
            var best = MergeTable.none
            var place = 0
            for index in 0..<state.pairs.count where state.pairs[index] < best {
                best = state.pairs[index]
                place = index
            }
            guard best != MergeTable.none else { return }
            state.symbols[place] = MergeTable.newID(of: best)
            state.symbols.remove(at: place + 1)
            state.pairs.remove(at: place)
            if place > 0 { state.pairs[place - 1] = merges.merge(state.symbols[place - 1], state.symbols[place]) }
            if place < state.pairs.count { state.pairs[place] = merges.merge(state.symbols[place], state.symbols[place + 1]) }
        }
    }

    /// The same for long pieces: a linked list of symbols, and a heap of the pairs that merge. O(n log n).
    private func mergeByHeap(_ state: inout EncoderState) {
        let count = state.symbols.count
        // The index of the neighbour, `count` for none on the right and -1 for none on the left.
        var next = Array(1...count)
        var previous = Array(-1..<(count - 1))
        var heap = MergeHeap()
        for index in 0..<(count - 1) {
            let merge = merges.merge(state.symbols[index], state.symbols[index + 1])
            if merge != MergeTable.none { heap.push(rank: MergeTable.rank(of: merge), place: index) }
        }
        while let (rank, place) = heap.pop() {
            // An entry is out of date when its left symbol is gone or the pair there has become another.
            guard state.symbols[place] >= 0, next[place] < count else { continue }
            let right = next[place]
            let merge = merges.merge(state.symbols[place], state.symbols[right])
            guard merge != MergeTable.none, MergeTable.rank(of: merge) == rank else { continue }
            state.symbols[place] = MergeTable.newID(of: merge)
            state.symbols[right] = -1
            next[place] = next[right]
            if next[place] < count {
                previous[next[place]] = place
                let after = merges.merge(state.symbols[place], state.symbols[next[place]])
                if after != MergeTable.none { heap.push(rank: MergeTable.rank(of: after), place: place) }
            }
            if previous[place] >= 0 {
                let before = merges.merge(state.symbols[previous[place]], state.symbols[place])
                if before != MergeTable.none { heap.push(rank: MergeTable.rank(of: before), place: previous[place]) }
            }
        }
        state.symbols.removeAll { $0 < 0 }
    }
}

/// What one encoding needs to work in, kept from one to the next.
struct EncoderState: Sendable {
    var cache = PieceCache()
    var symbols: [Int32] = []
    var pairs: [MergeTable.Merge] = []
    /// A piece with a space put before it.
    var prefixed: [UInt8] = []
}

/// Pieces seen before and their tokens. Holds up to a bound and then starts afresh.
struct PieceCache: Sendable {
    private static let maximumPieces = 1 << 17

    private var pieces = ByteStringTable(minimumCapacity: 1 << 10)
    private var ids: [Int32] = []
    /// Where the tokens of each piece end in `ids`, after a leading 0.
    private var ends = [0]

    func hash(_ text: Span<UInt8>, _ range: Range<Int>) -> UInt32 { pieces.hash(text, range) }

    /// Appends the tokens of a piece if they are known.
    func appendTokens(of text: Span<UInt8>, _ range: Range<Int>, hash: UInt32, to output: inout [Int32]) -> Bool {
        guard let piece = pieces.find(text, range, hash: hash) else { return false }
        for index in ends[piece]..<ends[piece + 1] { output.append(ids[index]) }
        return true
    }

    /// Remembers the tokens of a piece that is not known.
    mutating func remember(_ text: Span<UInt8>, _ range: Range<Int>, hash: UInt32, _ tokens: ArraySlice<Int32>) {
        if pieces.count >= Self.maximumPieces {
            pieces.removeAll()
            ids.removeAll(keepingCapacity: true)
            ends = [0]
        }
        pieces.insert(text, range, hash: hash)
        ids.append(contentsOf: tokens)
        ends.append(ids.count)
    }
}

/// A binary heap of pairs that may be merged, the lowest rank and of those the leftmost place on top.
private struct MergeHeap {
    /// The rank in the upper 24 bits, the place in the lower 40: files have fewer merges and texts fewer bytes.
    private var entries: [UInt64] = []

    mutating func push(rank: UInt64, place: Int) {
        entries.append(rank << 40 | UInt64(place))
        var child = entries.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            guard entries[child] < entries[parent] else { return }
            entries.swapAt(child, parent)
            child = parent
        }
    }

    mutating func pop() -> (rank: UInt64, place: Int)? {
        guard let top = entries.first else { return nil }
        let last = entries.removeLast()
        if !entries.isEmpty {
            var parent = 0
            while true {
                var child = 2 * parent + 1
                guard child < entries.count else { break }
                if child + 1 < entries.count, entries[child + 1] < entries[child] { child += 1 }
                guard entries[child] < last else { break }
                entries[parent] = entries[child]
                parent = child
            }
            entries[parent] = last
        }
        return (top >> 40, Int(top & 0xFF_FFFF_FFFF))
    }
}
