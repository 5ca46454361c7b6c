internal import CZlib

/// The CRC-32 of zlib, gzip and PNG.
func checksum(_ bytes: RawSpan) -> UInt32 {
    // Sound: zlib reads `count` bytes during the call, while `bytes` is alive. A null pointer would mean "start value"
    // to zlib, which is also what no bytes give.
    unsafe bytes.withUnsafeBytes { raw in
        UInt32(truncatingIfNeeded: unsafe crc32_z(0, raw.bindMemory(to: UInt8.self).baseAddress, raw.count))
    }
}
