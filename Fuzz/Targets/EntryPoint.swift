import Foundation

/// The parts of the program that read bytes from strangers. The variable FUZZ_TARGET chooses one by name.
enum FuzzTarget: String, CaseIterable {
    case json
    case safetensors
    case shardIndex = "shard-index"
    case tokenizer
    case adapterConfig = "adapter-config"
    case adapter
    case checkpoint
    case huffman

    /// The one of this process.
    static let chosen: FuzzTarget = {
        let name = ProcessInfo.processInfo.environment["FUZZ_TARGET"] ?? ""
        guard let target = FuzzTarget(rawValue: name) else {
            fail("FUZZ_TARGET is \"\(name)\" and must be one of \(FuzzTarget.allCases.map(\.rawValue).joined(separator: ", "))")
        }
        return target
    }()

    func run(_ bytes: [UInt8]) {
        switch self {
        case .json: fuzzJSON(bytes)
        case .safetensors: fuzzSafetensors(bytes)
        case .shardIndex: fuzzShardIndex(bytes)
        case .tokenizer: fuzzTokenizer(bytes)
        case .adapterConfig: fuzzAdapterConfig(bytes)
        case .adapter: fuzzAdapter(bytes)
        case .checkpoint: fuzzCheckpoint(bytes)
        case .huffman: fuzzHuffman(bytes)
        }
    }
}

/// What libFuzzer calls with each input.
@_cdecl("LLVMFuzzerTestOneInput")
public func testOneInput(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    // Sound: libFuzzer gives `count` bytes that live as long as the call. A copy of the exact size lets the address
    // sanitizer see a read past its end.
    FuzzTarget.chosen.run(unsafe Array(UnsafeBufferPointer(start: bytes, count: count)))
    return 0
}

/// Ends the process, so that libFuzzer keeps the input: something does not hold that must hold for every input.
func fail(_ what: String) -> Never { fatalError(what) }

/// Fails with `what` unless `condition` holds.
func require(_ condition: Bool, _ what: @autoclosure () -> String) {
    if !condition { fail(what()) }
}
