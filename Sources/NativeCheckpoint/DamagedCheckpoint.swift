internal import FileIO
internal import Hashing
public import JSON
public import OrderedCollections
public import Tensors

/// What is left of a `.opck` file that may be damaged or cut short.
///
/// Where the footer is intact it says what there was. Otherwise chunks are searched for, each of which says what tensor it
/// belongs to (`ChunkScan`). Nothing is believed that no checksum vouches for.
public final class DamagedCheckpoint: Sendable {
    /// A tensor of which at least the first chunk was found, or of which the footer tells.
    public struct Tensor: Sendable {
        /// Its number in the file.
        public let number: Int
        public let name: String
        public let dtype: DType
        /// Dimensions, outermost first; empty for a scalar.
        public let shape: [Int]
        /// The number of the packed file that it belongs to.
        public let file: Int?
        /// Bytes of the tensor when decoded.
        public let byteCount: Int
        /// What the footer says of its bytes' SHA-256.
        public let sha256: String?
        /// The name of the tensor that it may be stored as differences to: what the footer says, or else its own.
        public let baseName: String
        let descriptor: TensorDescriptor
        let chunkSize: Int
        /// By their place in the tensor.
        let chunks: [FoundChunk]

        func range(of chunk: FoundChunk) -> Range<Int> {
            let start = Int(chunk.index) * chunkSize
            return start..<(start + chunk.record.rawLength)
        }
    }

    /// A packed file.
    public struct File: Sendable {
        public let number: Int
        /// Its path in the pack; `nil` where the chunk that names it is lost, or where no file may have that name; an empty folder's ends with a slash.
        public let path: String?
        /// Positions of its tensors in `tensors`.
        public let tensors: [Int]
        /// Whether no tensor of it can be missing.
        public let isClosed: Bool

        public var isFolder: Bool { path?.utf8.last == UInt8(ascii: "/") }
    }

    /// What a tensor is found to be when it is decoded.
    public struct Condition: Sendable {
        /// Bytes of the tensor that are gone.
        public fileprivate(set) var lost: [Range<Int>] = []
        /// Bytes that are there as differences to another file's.
        public fileprivate(set) var differences: [Range<Int>] = []
        /// Whether the SHA-256 of its bytes is the footer's; `nil` where there is none or not all bytes are there.
        public fileprivate(set) var isHashRight: Bool?

        public var isWhole: Bool { lost.isEmpty && differences.isEmpty && isHashRight != false }
    }

    /// Chunks that belong to no tensor that is known.
    public struct Unplaced: Sendable {
        public enum Reason: String, Sendable {
            case firstChunkLost = "first-chunk-lost"
            case duplicate
            /// It says something else than the tensor's first chunk.
            case contradiction
        }

        public let reason: Reason
        public let tensor: Int
        /// Its number inside the tensor.
        public let chunk: Int
        /// Where it lies in the file.
        public let offset: Int
        /// Its bytes there.
        public let byteCount: Int
    }

    public let path: String
    /// Why the footer is of no use; `nil` where it is intact.
    public let fault: CheckpointError?
    /// What the footer says, where it is intact.
    public let footer: (kind: String, metadata: OrderedDictionary<String, JSONValue>)?
    /// In the order of their numbers.
    public let tensors: [Tensor]
    public let files: [File]
    public let unplaced: [Unplaced]
    /// Whether the file went beyond what a search may cost.
    public let isCutShort: Bool
    private let file: MappedFile

    /// Opens the file and searches it if need be.
    ///
    /// - Throws: `CheckpointError` with code `io`. A file in which nothing is found is none.
    public init(path: String) throws(CheckpointError) {
        self.path = path
        do {
            file = try MappedFile(path: path)
        } catch {
            throw CheckpointError(error)
        }
        do {
            let index = try Self.index(of: file)
            (tensors, files) = Self.tensors(of: index)
            (fault, footer, unplaced, isCutShort) = (nil, (index.kind, index.metadata), [], false)
        } catch {
            let scan = Self.scan(file)
            (tensors, unplaced) = Self.place(scan.chunks, in: file)
            files = Self.files(of: tensors, endsWithFooter: Self.isFooter(at: tensors.last?.chunks.last?.record.end, in: file))
            (fault, footer, isCutShort) = (error.inFile(path), nil, scan.isCutShort)
        }
    }

    /// Decodes all that is there of a tensor.
    ///
    /// - Parameter base: where the tensors are that others may be stored as differences to. What it gives is believed where a chunk's
    ///   checksum of the raw bytes vouches for it.
    public func examine(_ tensor: Tensor, base: (any BaseTensors)? = nil) -> Condition {
        let base = self.source(in: base, for: tensor)
        var condition = Condition()
        var digest = SHA256Digest()
        let decoder = ChunkDecoder()
        var bytes: [UInt8] = []
        var end = 0
        for chunk in tensor.chunks {
            let range = tensor.range(of: chunk)
            condition.lost.join(end..<range.lowerBound)
            end = range.upperBound
            switch decode(chunk, of: tensor, base: base, with: decoder, into: &bytes) {
            case .raw: digest.update(bytes.rawBytes)
            case .differences: condition.differences.join(range)
            case nil: condition.lost.join(range)
            }
        }
        condition.lost.join(end..<tensor.byteCount)
        if condition.isWhole, let expected = tensor.sha256 { condition.isHashRight = digest.finishHex() == expected }
        return condition
    }

    /// Hands over the bytes of a tensor that is whole, piece by piece.
    ///
    /// - Parameter base: as for `examine`.
    /// - Throws: `CheckpointError` with code `chunk-checksum` where it is not whole, and what `body` throws.
    public func read(_ tensor: Tensor, base: (any BaseTensors)? = nil, to body: (RawSpan) throws -> Void) throws {
        let base = self.source(in: base, for: tensor)
        let decoder = ChunkDecoder()
        var bytes: [UInt8] = []
        for chunk in tensor.chunks {
            guard decode(chunk, of: tensor, base: base, with: decoder, into: &bytes) == .raw else {
                throw CheckpointError(.chunkChecksum, tensor: tensor.name, at: chunk.record.offset, "the file changed while it was read")
                    .inFile(path)
            }
            try body(bytes.rawBytes)
        }
    }

    private func source(in base: (any BaseTensors)?, for tensor: Tensor) -> (any ByteSource)? {
        guard let found = try? base?.source(name: tensor.baseName, dtype: tensor.dtype, shape: tensor.shape) else { return nil }
        return found.byteCount == tensor.byteCount ? found : nil
    }

    /// What a chunk holds that is what it says.
    private enum Content {
        /// `bytes` are its raw bytes.
        case raw
        /// Differences to what is not known.
        case differences
    }

    private func decode(
        _ chunk: FoundChunk, of tensor: Tensor, base: (any ByteSource)?, with decoder: ChunkDecoder, into bytes: inout [UInt8]
    ) -> Content? {
        if bytes.count != chunk.record.rawLength { bytes = [UInt8](repeating: 0, count: chunk.record.rawLength) }
        guard chunk.record.codec == PlaneLayout.Arrangement.difference.rawValue else {
            return decode(chunk, of: tensor, layout: PlaneLayout(tensor.dtype), base: nil, with: decoder, into: &bytes) ? .raw : nil
        }
        let layout = PlaneLayout(tensor.dtype).ofDifferences
        var isRestored = false
        try? base?.withBytes(in: tensor.range(of: chunk)) { base in
            isRestored = decode(chunk, of: tensor, layout: layout, base: base, with: decoder, into: &bytes)
        }
        if isRestored { return .raw }
        // Without the right base the chunk may be whole all the same.
        return decode(chunk, of: tensor, layout: layout, base: nil, with: decoder, into: &bytes) ? .differences : nil
    }

    private func decode(
        _ chunk: FoundChunk, of tensor: Tensor, layout: PlaneLayout, base: RawSpan?, with decoder: ChunkDecoder, into bytes: inout [UInt8]
    ) -> Bool {
        let file = file
        // Sound: the pointer is used only during the call; the buffer has as many bytes as the chunk.
        return unsafe bytes.withUnsafeMutableBytes { raw in
            let result: Void? = try? unsafe decoder.decode(
                file.bytes(in: chunk.record.offset..<chunk.record.end), record: chunk.record, index: Int(chunk.index), layout: layout,
                descriptor: chunk.index == 0 ? tensor.descriptor.encoded : [], base: base, into: raw)
            return result != nil
        }
    }

    // A span of the file may not live across a `catch`.
    private static func index(of file: MappedFile) throws(CheckpointError) -> CheckpointIndex {
        try CheckpointIndex(parsing: file.bytes, limits: .format)
    }

    private static func scan(_ file: MappedFile) -> ChunkScan { ChunkScan(file.bytes) }
}

extension DamagedCheckpoint {
    /// What an intact footer tells of.
    private static func tensors(of index: CheckpointIndex) -> ([Tensor], [File]) {
        let tensors = index.tensors.values.map { tensor in
            Tensor(
                number: tensor.index, name: tensor.name, dtype: tensor.dtype, shape: tensor.shape, file: tensor.descriptor.file,
                byteCount: tensor.byteCount, sha256: tensor.sha256, baseName: tensor.base?.name ?? tensor.name, descriptor: tensor.descriptor,
                chunkSize: index.chunkSize,
                chunks: tensor.chunks.enumerated().map { number, chunk in
                    FoundChunk(
                        record: index.chunks[chunk], index: UInt32(number),
                        descriptorLength: number == 0 ? UInt32(tensor.descriptor.encoded.count) : 0)
                })
        }
        var files: [File] = []
        var first = 0
        for (number, file) in (index.files ?? []).enumerated() {
            files.append(File(number: number, path: file.path, tensors: Array(first..<(first + file.tensors)), isClosed: true))
            first += file.tensors
        }
        return (tensors, files)
    }

    /// Gives each chunk its tensor, as far as a first chunk tells of one. Of two chunks for one place the first in the file counts.
    private static func place(_ found: [FoundChunk], in file: MappedFile) -> ([Tensor], [Unplaced]) {
        let sorted = found.sorted {
            ($0.record.tensorIndex, $0.index, $0.record.offset) < ($1.record.tensorIndex, $1.index, $1.record.offset)
        }
        var tensors: [Tensor] = []
        var unplaced: [Unplaced] = []
        var start = 0
        while start < sorted.count {
            let end = sorted[start...].firstIndex { $0.record.tensorIndex != sorted[start].record.tensorIndex } ?? sorted.count
            let chunks = sorted[start..<end]
            start = end
            func refuse(_ chunk: FoundChunk, _ reason: Unplaced.Reason) {
                unplaced.append(
                    Unplaced(
                        reason: reason, tensor: chunk.record.tensorIndex, chunk: Int(chunk.index), offset: chunk.record.offset,
                        byteCount: chunk.record.storedLength))
            }
            // A first chunk without a descriptor that makes sense is none.
            guard let first = chunks.first, let known = describe(first, in: file) else {
                for chunk in chunks { refuse(chunk, .firstChunkLost) }
                continue
            }
            var placed = [first]
            for chunk in chunks.dropFirst() {
                guard chunk.index != placed[placed.count - 1].index else {
                    refuse(chunk, .duplicate)
                    continue
                }
                let rest = known.byteCount - min(known.byteCount, Int(chunk.index) * first.record.rawLength)
                guard fits(chunk, known.descriptor.dtype), chunk.record.rawLength == min(first.record.rawLength, rest) else {
                    refuse(chunk, .contradiction)
                    continue
                }
                placed.append(chunk)
            }
            tensors.append(
                Tensor(
                    number: first.record.tensorIndex, name: known.descriptor.name, dtype: known.descriptor.dtype, shape: known.descriptor.shape,
                    file: known.descriptor.file, byteCount: known.byteCount, sha256: nil, baseName: known.descriptor.name,
                    descriptor: known.descriptor,
                    chunkSize: first.record.rawLength, chunks: placed))
        }
        return (tensors, unplaced)
    }

    /// What a first chunk says of its tensor. It is as long as all but the last, or the only one.
    private static func describe(_ chunk: FoundChunk, in file: MappedFile) -> (descriptor: TensorDescriptor, byteCount: Int)? {
        guard chunk.index == 0, let descriptor = TensorDescriptor(parsing: file.bytes(in: chunk.descriptorRange)),
            let byteCount = CheckedSize.byteCount(of: descriptor.shape, dtype: descriptor.dtype), fits(chunk, descriptor.dtype),
            chunk.record.rawLength == byteCount || (chunk.record.rawLength < byteCount && Format.isChunkSize(chunk.record.rawLength))
        else { return nil }
        return (descriptor, byteCount)
    }

    private static func fits(_ chunk: FoundChunk, _ dtype: DType) -> Bool {
        let layout = PlaneLayout(dtype)
        return Int(chunk.record.width) == layout.width
            && (chunk.record.codec == layout.codec || chunk.record.codec == layout.ofDifferences.codec)
    }

    /// The packed files that tensors name, and whether each is closed: it begins with the tensor that bears its path, tensor
    /// follows tensor with nothing between, and after the last comes another file or the footer. (A tensor without bytes has no
    /// chunk, so that numbers alone do not tell.)
    private static func files(of tensors: [Tensor], endsWithFooter: Bool) -> [File] {
        func isNext(_ second: Tensor, after first: Tensor) -> Bool {
            second.number == first.number + 1 || second.chunks.first?.record.offset == first.chunks.last?.record.end
        }
        var files: [File] = []
        var numbers: Set<Int> = []
        var start = 0
        while start < tensors.count {
            guard let number = tensors[start].file else {
                start += 1
                continue
            }
            let end = tensors[start...].firstIndex { $0.file != number } ?? tensors.count
            let isJoined = ((start + 1)..<max(start + 1, end)).allSatisfy { isNext(tensors[$0], after: tensors[$0 - 1]) }
            let isEnded = end < tensors.count ? isNext(tensors[end], after: tensors[end - 1]) : endsWithFooter
            // What comes back to a file after another one is not in order, and not trusted to be all of it.
            let isFirst = numbers.insert(number).inserted
            let path = tensors[start].descriptor.path.flatMap { Format.isPath($0) && $0.utf8.last != UInt8(ascii: "/") ? $0 : nil }
            files.append(
                File(
                    number: number, path: isFirst ? path : nil, tensors: Array(start..<end), isClosed: isFirst && path != nil && isJoined && isEnded))
            start = end
        }
        return files
    }

    /// Whether a footer's text begins there, so that no chunk follows.
    private static func isFooter(at offset: Int?, in file: MappedFile) -> Bool {
        guard let offset else { return false }
        return file.bytes.holds(Array(#"{"format":"opck","version":1,"#.utf8), at: offset)
    }
}

extension [Range<Int>] {
    /// Appends a range that begins at the end of the last one or after it.
    fileprivate mutating func join(_ range: Range<Int>) {
        guard !range.isEmpty else { return }
        if let last, last.upperBound == range.lowerBound {
            self[count - 1] = last.lowerBound..<range.upperBound
        } else {
            append(range)
        }
    }
}
