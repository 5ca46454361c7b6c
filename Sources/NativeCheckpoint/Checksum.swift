internal import CKernels
internal import CZlib

/// The CRC-32 of zlib, gzip and PNG: the processor's carry-less products take all whole blocks, zlib the rest.
///
/// - Parameters:
///   - before: the CRC-32 of what stands before `bytes`.
///   - width: the widest registers that are used, in bits.
func checksum(_ bytes: RawSpan, continuing before: UInt32 = 0, width: Int = oplora_crc32_widest) -> UInt32 {
    // Sound: both read within `count` bytes during the call, while `bytes` is alive, and the kernel writes the 16 that it is
    // given. A null pointer would mean "start value" to zlib, which is also what no bytes give.
    unsafe bytes.withUnsafeBytes { raw in
        let bytes = unsafe raw.bindMemory(to: UInt8.self)
        var folded: (UInt64, UInt64) = (0, 0)
        let (count, register) = unsafe withUnsafeMutableBytes(of: &folded) { folded in
            let block = unsafe folded.bindMemory(to: UInt8.self).baseAddress
            let count = unsafe oplora_crc32_fold(Int32(width), ~before, bytes.baseAddress, bytes.count, block)
            // zlib inverts the register on the way in and out, so all ones are a register of zero.
            return (count, count == 0 ? UInt(before) : unsafe crc32_z(0xFFFF_FFFF, block, 16))
        }
        let rest = unsafe UnsafeBufferPointer(rebasing: bytes[count...])
        return UInt32(truncatingIfNeeded: unsafe rest.isEmpty ? register : crc32_z(register, rest.baseAddress, rest.count))
    }
}
