import Hashing
import NativeCheckpoint
import OrderedCollections
import Tensors

private let file = InputFile("input.opck")

/// Far below those of the format, so that no input takes long for being large.
private let limits = {
    var limits = CheckpointLimits()
    limits.footerBytes = 1 << 18
    limits.tensors = 1 << 10
    limits.chunks = 1 << 12
    limits.rawBytes = 1 << 22
    return limits
}()

/// An .opck file, as it is and with every checksum made to fit: a tensor that can be read has the size of its shape and the
/// hash of the footer, reading and checking agree, and nothing is left in memory after an error.
func fuzzCheckpoint(_ bytes: [UInt8]) {
    read(bytes)
    if let sealed = CheckpointSeal.sealed(bytes) { read(sealed) }
}

private func read(_ bytes: [UInt8]) {
    file.write(bytes)
    guard let checkpoint = try? CheckpointFile(path: file.path, limits: limits) else { return }
    var total = 0
    for (name, tensor) in checkpoint.tensors {
        require(name == tensor.label, "\(tensor.label) is called \(name)")
        require(CheckedSize.byteCount(of: tensor.shape, dtype: tensor.dtype) == tensor.byteCount, "\(tensor) has another size")
        total += tensor.byteCount
        require(total <= limits.rawBytes, "the limit of raw bytes was passed")
        let isSound = (try? checkpoint.copy([tensor]) { _, _ in }) != nil
        var content = [UInt8](repeating: 0xAA, count: tensor.byteCount)
        var isRead = true
        do {
            var span = content.mutableSpan
            // Sound: any bytes make valid bytes.
            var raw = unsafe span.mutableBytes
            try checkpoint.read(name, into: &raw)
        } catch {
            isRead = false
        }
        require(isRead == isSound, "\(name): reading says \(isRead) and checking says \(isSound)")
        guard isRead else {
            require(content.allSatisfy { $0 == 0 }, "\(name): bytes were left after an error")
            continue
        }
        // Sound: every bit pattern of a byte may be read as a raw byte.
        require(tensor.sha256 == nil || tensor.sha256 == SHA256Digest.hex(of: unsafe content.span.bytes), "\(name) was read with another hash")
    }
}
